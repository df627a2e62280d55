/* SPDX-License-Identifier: MIT */
/* error.h: an error number with the sentence that explains it, in a fixed-size buffer. */
#ifndef COP_BASE_ERROR_H
#define COP_BASE_ERROR_H

/* Filled only on failure. The caller owns it; it may live on the stack; nothing in it is freed. */
struct cop_error {
	int code;	/* -errno, 0 when nothing was set */
	char text[252]; /* one sentence without a full stop, always NUL-terminated */
};

/*
 * Store @code (a negative errno) and the formatted text in @err and return @code, so that a caller
 * can write `return cop_error_set(err, -EINVAL, ...)`. @err may be NULL. A text that is too long is
 * cut. Does not allocate or block, and keeps errno.
 */
int cop_error_set(struct cop_error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
