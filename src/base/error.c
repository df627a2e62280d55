/* SPDX-License-Identifier: MIT */
/* error.c: an error number with the sentence that explains it. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int cop_error_set(struct cop_error *err, int code, const char *format, ...)
{
	if (err) {
		int saved = errno;
		va_list ap;

		err->code = code;
		va_start(ap, format);
		/* Cut texts are fine, and there is nobody to tell about a bad format. */
		(void)vsnprintf(err->text, sizeof(err->text), format, ap);
		va_end(ap);
		errno = saved;
	}
	return code;
}
