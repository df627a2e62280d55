/* SPDX-License-Identifier: MIT */
/* unit.h: what the daemon's unit tests share: cmocka, a scratch folder, expected errors. */
#ifndef COP_TESTS_UNIT_H
#define COP_TESTS_UNIT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "daemon/files.h"
#include "daemon/gerror.h"
#include "daemon/json.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Only a hang lasts this long. */
#define PATIENCE_MS 30000

/* A new empty folder, 0700; caller frees. */
static inline char *scratch_new(void)
{
	char *dir = g_dir_make_tmp("coppice-unit-XXXXXX", NULL);

	assert_non_null(dir);
	return dir;
}

static inline void scratch_free(char *dir)
{
	cop_file_remove_tree(dir);
	g_free(dir);
}

/* The error is of the daemon's domain, has the code, its message has the text; it is cleared. */
static inline void expect_error(GError **error, enum cop_error_code code, const char *text)
{
	assert_non_null(*error);
	if ((*error)->domain != COP_ERROR || (*error)->code != (int)code ||
	    !strstr((*error)->message, text))
		fail_msg("wanted code %d and '%s', got code %d: %s", (int)code, text,
			 (*error)->code, (*error)->message);
	g_clear_error(error);
}

static inline void expect_no_error(GError *error)
{
	if (error)
		fail_msg("%s", error->message);
}

static inline void write_file(const char *path, const char *text)
{
	GError *error = NULL;

	g_file_set_contents(path, text, -1, &error);
	expect_no_error(error);
}

/* Names in the folder, for counting. */
static inline unsigned nr_files(const char *folder)
{
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	unsigned nr = 0;

	assert_non_null(dir);
	while (g_dir_read_name(dir))
		nr++;
	return nr;
}

#endif
