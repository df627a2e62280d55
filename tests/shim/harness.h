/* SPDX-License-Identifier: MIT */
/* harness.h: start a program with the shim in it, as the daemon would. Failures fail the cmocka
 * test. */
#ifndef COP_TEST_SHIM_HARNESS_H
#define COP_TEST_SHIM_HARNESS_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "proto/shim-client.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#define PAGE	  4096ul
#define RAM_BYTES (64 * PAGE)
#define NOBODY	  65534
/* Long enough for a loaded machine; no test waits this long unless it fails. */
#define PATIENCE_MS 60000

/* One process with the shim, and what it was given. */
struct rig {
	char dir[64];	 /* private, readable by NOBODY */
	char socket[96]; /* the control socket */
	char dummy[96];
	size_t ram_bytes;
	int dummy_fd;
	int listen_fd;
	int ram_fd; /* memfd with the pattern, opened for reading and writing */
	pid_t pid;
	FILE *to, *from; /* standard input and output of the process */
};

struct rig_options {
	const char *mode;     /* "shared" or "private" */
	const char *variable; /* whole value instead of the right one; "" for none */
	uid_t uid;	      /* run as */
	uid_t allowed_uid;    /* uid= of the variable, left out when 0 */
	size_t ram_bytes;     /* 0: RAM_BYTES */
	size_t file_bytes;    /* size of the memfd; 0: ram_bytes */
	bool writable;	      /* give a writable descriptor in private mode */
	bool deaf;	      /* give something else as the listening socket */
	enum uffd {
		UFFD_NONE,
		UFFD_DEVICE,
		UFFD_SYSCALL,
		UFFD_WRONG,   /* some other file than the device */
		UFFD_MISSING, /* not open */
	} uffd;
	bool holes; /* the memfd has a hole at every eighth page, from the first on */
};

/* Skips the test where a userfaultfd of this kind, for faults of the kernel too, can't be had. */
void need_uffd(enum uffd kind);

/* Directory, dummy, socket and memfd. rig_done() ends the process, removes everything. */
void rig_init(struct rig *rig, const struct rig_options *options);
void rig_done(struct rig *rig);

/* cmocka teardown: clean up after a test that failed between the two. */
int rig_teardown(void **state);

/* Start @argv with the shim preloaded and its descriptors at 5 (listen) and 6 (ram). */
void rig_start(struct rig *rig, const struct rig_options *options, char *const argv[]);

/* rig_init() and the victim; @program from the environment variable VICTIM64 or VICTIM32. */
void rig_start_victim(struct rig *rig, const struct rig_options *options, const char *program);

/* Tell the victim to do @command, and don't wait; the number after its "ok", or -errno. */
void rig_tell(struct rig *rig, const char *command, ...) __attribute__((format(printf, 2, 3)));
intmax_t rig_answer(struct rig *rig);

/* Both. */
intmax_t rig_do(struct rig *rig, const char *command, ...) __attribute__((format(printf, 2, 3)));

#define assert_done(call, err)                                                                     \
	do {                                                                                       \
		if ((call) != 0)                                                                   \
			fail_msg("%s: %s", #call, (err).text);                                     \
	} while (0)

/* A client of the rig's shim, freed by the caller; HELLO's good answer on a connection of its own.
 */
struct cop_shim_client *connect_client(struct rig *rig);
struct cop_shim_info hello(struct rig *rig);

/* A connection without the client library, for bad manners. */
int connect_raw(struct rig *rig);

/* Receives one message, which must be well-formed. */
struct cop_shim_msg receive_raw(int fd);

/*
 * Send @len bytes (and a descriptor, or -1) on it and return the status of the answer, which must
 * be well-formed.
 */
int ask_raw(int fd, const void *data, size_t len, int passed_fd);

/* End of the process as of waitpid(). */
int rig_wait(struct rig *rig);

/* A memfd of @bytes with the pattern, owned by the caller, and its byte at @at. */
int make_ram(size_t bytes);
void punch_page(int fd, size_t gfn);
bool is_hole(int fd, size_t gfn);
unsigned char pattern(size_t at);
unsigned char file_byte(int fd, size_t at);

/* Is there a line in /proc/PID/maps with all the words? Copies the first one to @ret_line (256
 * bytes). */
bool maps_line(pid_t pid, const char *word1, const char *word2, char *ret_line);

/* Does the mapping at @addr have the two-letter VmFlags @flag ("dc", "hg", ...)? */
bool has_vm_flag(pid_t pid, uintmax_t addr, const char *flag);

/* Number of mappings in @pid that begin in [addr, addr + len). */
unsigned int nr_mappings(pid_t pid, uintmax_t addr, uintmax_t len);

/* Number of this process's open descriptors. */
int nr_open_fds(void);

const char *need_env(const char *name);

#endif
