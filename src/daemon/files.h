/* Files: opened safely, replaced whole, copied sparsely, removed with all that is in them. */
#ifndef COP_DAEMON_FILES_H
#define COP_DAEMON_FILES_H

#include <glib.h>
#include <stdint.h>

/* What tells whether a file is still the one that was checked. */
struct cop_file_id {
	uint64_t size_bytes;
	uint64_t inode;
	int64_t mtime_ns;
	int64_t ctime_ns;
};

/* Whole file as text (nul-terminated), caller frees; refuses more than max_bytes. */
char *cop_file_read(const char *path, gsize max_bytes, gsize *ret_len, GError **error);
/* Written beside (0600), then renamed over path; durable: both synced to disk. */
gboolean cop_file_replace(const char *path, const void *data, gsize len_bytes, gboolean durable,
			  GError **error);
/* Creates a folder (one level) with the mode; an existing folder is fine. */
gboolean cop_file_mkdir(const char *path, int mode, GError **error);
/* Removes a file or a folder with all in it; never follows links; absence is fine. Errors are
 * logged, as callers are cleaning up and can do nothing about them. */
void cop_file_remove_tree(const char *path);
/* Bytes on disk (st_blocks) of a file; 0 when it can't be read. */
uint64_t cop_file_used_bytes(const char *path);
gboolean cop_file_id(const char *path, struct cop_file_id *ret, GError **error);
gboolean cop_file_id_equal(const struct cop_file_id *a, const struct cop_file_id *b);
/* Opens with O_CLOEXEC | O_NOFOLLOW; -1 with error set on failure. */
int cop_file_open(const char *path, int flags, int mode, GError **error);
/* Syncs a file, or a folder's entries, to disk. */
gboolean cop_file_sync(const char *path, GError **error);
gboolean cop_file_sync_dir(const char *path, GError **error);
/* Copies a small file (no holes kept). */
gboolean cop_file_copy(const char *from, const char *to, int mode, GError **error);
/* "1.5 GiB": for messages; caller frees. */
char *cop_file_size_text(uint64_t size_bytes);
/* 16 hexadecimal digits of the kernel's randomness; caller frees. */
char *cop_file_random_id(void);

#endif
