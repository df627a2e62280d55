/* SPDX-License-Identifier: MIT */
/*
 * config.h: the COPPICE_SHIM variable.
 *
 *	variable = "1:" pair 5*7( ":" pair )	every key at most once, in any order
 *	pair     = "listen=" fd / "ram=" fd / "mode=" ( "shared" / "private" ) / "uid=" number /
 *	           "dev=" number / "ino=" number / "size=" number / "uffd=" ( "0" / fd )
 *	fd       = number, 3 to 2147483647, no two the same
 *	number   = "0" / ( "1"-"9" *digit ), decimal
 *
 * All keys but uid and uffd are needed. size is in bytes, a multiple of 4096, not 0. Nothing else
 * is accepted: no spaces, signs, empty pairs or unknown keys.
 */
#ifndef COP_SHIM_CONFIG_H
#define COP_SHIM_CONFIG_H

#include "proto/shim.h"

#include <stddef.h>
#include <sys/types.h>

struct cop_shim_config {
	int listen_fd;		 /* listening AF_UNIX SOCK_SEQPACKET socket */
	int ram_fd;		 /* file to map in place of the dummy */
	enum cop_shim_mode mode; /* how to map it */
	uid_t uid;		 /* besides root, who may connect; 0 when not given */
	dev_t dev;		 /* st_dev of the dummy */
	ino_t ino;		 /* st_ino of the dummy */
	size_t size_bytes;	 /* of the dummy */
	int uffd_dev_fd;	 /* an open /dev/userfaultfd; 0: the system call; -1: no paging */
};

/*
 * Parse @text. Returns 0, or -EINVAL, when only listen_fd is meaningful: the descriptor of the
 * first well-formed listen= if there is one, so that somebody can be told, else -1. Pure.
 */
int cop_shim_config_parse(const char *text, struct cop_shim_config *ret_config);

#endif
