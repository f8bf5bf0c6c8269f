// The findings of a launch: a finding met again is counted, and after twenty different ones the rest is dropped.
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "internal.h"

namespace {
constexpr unsigned MOST = 20;
EmuReport reports[MOST];
EmuReport dropped;
unsigned count = 0;

bool same_finding(const EmuReport& a, const EmuReport& b) {
  return a.site == b.site && a.site && !strcmp(a.kind, b.kind);
}
}  // namespace

void clear_reports() { count = 0; }
unsigned report_count() { return count; }

EmuReport* add_report(const char* kind, void* site, const char* format, ...) {
  EmuReport report{};
  snprintf(report.kind, sizeof report.kind, "%s", kind);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(report.text, sizeof report.text, format, arguments);
  va_end(arguments);
  report.site = reinterpret_cast<uint64_t>(site);
  report.thread = current ? current->number : 0;
  report.block = emu_now.block;
  report.times = 1;
  for (unsigned i = 0; i < count; ++i)
    if (same_finding(reports[i], report)) {
      ++reports[i].times;
      return &dropped;
    }
  EmuReport* place = count < MOST ? &reports[count++] : &dropped;
  *place = report;
  return place;
}

void set_place(EmuReport* report, const char* file, int line, unsigned thread) {
  snprintf(report->file, sizeof report->file, "%s", file ? file : "?");
  report->line = line;
  report->thread = thread;
}

extern "C" {
unsigned emu_report_count() { return count; }
const EmuReport* emu_report(unsigned i) { return &reports[i]; }
}
