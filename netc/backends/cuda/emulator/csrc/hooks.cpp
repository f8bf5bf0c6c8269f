// What g++ calls where it instruments code: -fsanitize=thread tells every memory access, -fsanitize=undefined every
// undefined operation. The sanitizers' own runtimes are not linked; these functions stand in their place.
#include <cstring>

#include "internal.h"

extern "C" {
#define EMU_HOOK(name, bytes, access) \
  void __tsan_##name##bytes(void* p) { check_access(reinterpret_cast<uintptr_t>(p), bytes, access, EMU_SITE); }
#define EMU_HOOKS_OF_SIZE(bytes)             \
  EMU_HOOK(read, bytes, EMU_READ)            \
  EMU_HOOK(write, bytes, EMU_WRITE)          \
  EMU_HOOK(unaligned_read, bytes, EMU_READ)  \
  EMU_HOOK(unaligned_write, bytes, EMU_WRITE)
EMU_HOOKS_OF_SIZE(1)
EMU_HOOKS_OF_SIZE(2)
EMU_HOOKS_OF_SIZE(4)
EMU_HOOKS_OF_SIZE(8)
EMU_HOOKS_OF_SIZE(16)
void __tsan_read_range(void* p, size_t bytes) {
  check_access(reinterpret_cast<uintptr_t>(p), static_cast<unsigned>(bytes), EMU_READ, EMU_SITE);
}
void __tsan_write_range(void* p, size_t bytes) {
  check_access(reinterpret_cast<uintptr_t>(p), static_cast<unsigned>(bytes), EMU_WRITE, EMU_SITE);
}
void emu_check(const void* address, unsigned bytes, int access, void* site) {
  check_access(reinterpret_cast<uintptr_t>(address), bytes, access, site);
}
void emu_check_vector(const void* address, unsigned bytes, int access) {
  check_access(reinterpret_cast<uintptr_t>(address), bytes, access, EMU_SITE);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Every record that g++ hands to such a handler begins with the place in the source.
struct EmuPlace {
  const char* file;
  unsigned line, column;
};
static void emu_undefined(const char* what, const EmuPlace* place, void* site) {
  if (!current) return;
  set_place(add_report("undefined behaviour", site, "%s", what), place->file, place->line, current->number);
}
#define EMU_UNDEFINED(handler, what) \
  void __ubsan_handle_##handler(EmuPlace* place, ...) { emu_undefined(what, place, EMU_SITE); }
EMU_UNDEFINED(add_overflow, "a signed sum overflows")
EMU_UNDEFINED(sub_overflow, "a signed difference overflows")
EMU_UNDEFINED(mul_overflow, "a signed product overflows")
EMU_UNDEFINED(negate_overflow, "a negation overflows")
EMU_UNDEFINED(divrem_overflow, "an integer is divided by zero, or its quotient overflows")
EMU_UNDEFINED(shift_out_of_bounds, "a shift by a negative number, or by as many bits as there are or more")
EMU_UNDEFINED(out_of_bounds, "an index is outside its array")
EMU_UNDEFINED(builtin_unreachable, "a place is reached that was declared unreachable")
EMU_UNDEFINED(missing_return, "a function ends without returning a value")
EMU_UNDEFINED(load_invalid_value, "a bool or an enum holds a value it cannot have")
// Of this check only the alignment of pointers is switched on.
void __ubsan_handle_type_mismatch_v1(void*, uintptr_t address) {
  if (current) report_misaligned(address, EMU_SITE);
}
EMU_UNDEFINED(pointer_overflow, "a pointer's arithmetic overflows")
EMU_UNDEFINED(float_cast_overflow, "a float does not fit the integer it is converted to")
EMU_UNDEFINED(nonnull_arg, "a null pointer is given where none may be")
EMU_UNDEFINED(invalid_builtin, "a builtin is given a value it cannot take")
EMU_UNDEFINED(vla_bound_not_positive, "an array has no elements")
}
