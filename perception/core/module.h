/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of Savanna that need large libraries are modules: shared objects beside this library that are loaded when something asks
 * for them, so that a program starts without those libraries. A module gives a table of functions.
 */
#ifndef SV_MODULE_H
#define SV_MODULE_H

#include <stddef.h>

/*
 * The table of the module 'file' (libsavanna_NAME.so), which its function 'entry' (no arguments) returns. NULL: 'why' says what
 * is in the way, after 'what' it is for ("PCL"). The module stays loaded. Not safe from several threads at once: pthread_once.
 */
const void *sv_module_table(const char *file, const char *entry, const char *what, char *why, size_t why_bytes);

#endif
