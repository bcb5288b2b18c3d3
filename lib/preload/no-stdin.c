/* SPDX-License-Identifier: MIT */
/*
 * A stdin of this library's own, which nobody reads. Distributions compile static libraries for
 * programs: jansson's asks for the C library's in a way that a shared library cannot offer, in a
 * function (json_loadf()) that nobody here calls.
 */
#undef stdin

__attribute__((visibility("hidden"))) void *stdin;
