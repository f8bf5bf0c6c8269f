// The C entry of a kernel: a function that takes the address of each argument, and the kinds of its parameters.
#pragma once
#include <type_traits>
#include <utility>

#include "runtime.h"

// A letter for each parameter type, as the launcher in kernel.py reads them: pointers are P, structures S.
template <class T>
constexpr char emu_parameter_kind() {
  if (std::is_pointer_v<T>) return 'P';
  if (std::is_same_v<T, bool>) return '?';
  if (std::is_floating_point_v<T>) return sizeof(T) == 4 ? 'f' : 'd';
  if (std::is_integral_v<T>) {
    constexpr const char* letters = std::is_signed_v<T> ? "bhi q" : "BHI Q";
    return letters[sizeof(T) == 8 ? 4 : sizeof(T) / 2];
  }
  return 'S';
}
template <class... Parameters, std::size_t... I>
EMU_UNCHECKED inline void emu_call_each(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<Parameters*>(arguments[I])...);
}
template <class... Parameters>
EMU_UNCHECKED inline void emu_call(void (*kernel)(Parameters...), void** arguments) {
  emu_call_each(kernel, arguments, std::index_sequence_for<Parameters...>{});
}
template <class... Parameters>
inline const char* emu_kinds(void (*)(Parameters...)) {
  static const char kinds[] = {emu_parameter_kind<Parameters>()..., 0};
  return kinds;
}
#define EMU_VISIBLE __attribute__((visibility("default")))
#define EMU_KERNEL_ENTRY(...)                                                                      \
  extern "C" EMU_VISIBLE EMU_UNCHECKED void emu_entry(void** arguments) { emu_call(&__VA_ARGS__, arguments); } \
  extern "C" EMU_VISIBLE const char* emu_parameters() { return emu_kinds(&__VA_ARGS__); }
