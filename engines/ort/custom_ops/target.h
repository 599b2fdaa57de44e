// Code for an instruction set that the rest of the library is not compiled for: between TARGET_BEGIN("...") and
// TARGET_END. Include the standard library's headers before it, so that none of their functions is compiled for it.
#pragma once

#define TARGET_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define TARGET_BEGIN(features) \
  TARGET_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END TARGET_PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(features) TARGET_PRAGMA(GCC push_options) TARGET_PRAGMA(GCC target(features))
#define TARGET_END TARGET_PRAGMA(GCC pop_options)
#endif
