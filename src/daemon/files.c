/* Files: see files.h. */
#include "files.h"
#include "gerror.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

int cop_file_open(const char *path, int flags, int mode, GError **error)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, mode);

	if (fd < 0)
		cop_gerror_errno(error, errno, "cannot open %s", path);
	return fd;
}

char *cop_file_read(const char *path, gsize max_bytes, gsize *ret_len, GError **error)
{
	g_autoptr(GString) text = g_string_new(NULL);
	char buf[16384];
	ssize_t n;
	int fd = cop_file_open(path, O_RDONLY, 0, error);

	if (fd < 0)
		return NULL;
	while ((n = read(fd, buf, sizeof(buf))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			cop_gerror_errno(error, errno, "cannot read %s", path);
			close(fd);
			return NULL;
		}
		if (text->len + (gsize)n > max_bytes) {
			cop_gerror_set(error, COP_ERR_DAMAGED, "%s is larger than %zu bytes", path,
				      max_bytes);
			close(fd);
			return NULL;
		}
		g_string_append_len(text, buf, n);
	}
	close(fd);
	if (ret_len)
		*ret_len = text->len;
	return g_string_free(g_steal_pointer(&text), FALSE);
}

static gboolean write_all(int fd, const void *data, gsize len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return FALSE;
		p += n;
		len -= (gsize)n;
	}
	return TRUE;
}

gboolean cop_file_sync_dir(const char *path, GError **error)
{
	return cop_file_sync(path, error);
}

gboolean cop_file_sync(const char *path, GError **error)
{
	int fd = cop_file_open(path, O_RDONLY, 0, error);

	if (fd < 0)
		return FALSE;
	if (fsync(fd) < 0) {
		cop_gerror_errno(error, errno, "cannot sync %s", path);
		close(fd);
		return FALSE;
	}
	close(fd);
	return TRUE;
}

gboolean cop_file_replace(const char *path, const void *data, gsize len_bytes, gboolean durable,
			  GError **error)
{
	g_autofree char *tmp = g_strconcat(path, ".new", NULL);
	g_autofree char *dir = g_path_get_dirname(path);
	int fd;

	(void)unlink(tmp); /* a left-over of a killed daemon, or nothing */
	fd = cop_file_open(tmp, O_WRONLY | O_CREAT | O_EXCL, 0600, error);
	if (fd < 0)
		return FALSE;
	if (!write_all(fd, data, len_bytes) || (durable && fsync(fd) < 0)) {
		cop_gerror_errno(error, errno, "cannot write %s", tmp);
		close(fd);
		(void)unlink(tmp);
		return FALSE;
	}
	close(fd);
	if (rename(tmp, path) < 0) {
		cop_gerror_errno(error, errno, "cannot rename %s", tmp);
		(void)unlink(tmp);
		return FALSE;
	}
	return !durable || cop_file_sync_dir(dir, error);
}

gboolean cop_file_mkdir(const char *path, int mode, GError **error)
{
	struct stat st;

	if (mkdir(path, 0700) == 0 && chmod(path, (mode_t)mode) == 0) /* whatever the umask is */
		return TRUE;
	if (errno == EEXIST && lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return TRUE;
	return cop_gerror_errno(error, errno, "cannot make the folder %s", path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (remove(path) < 0 && errno != ENOENT)
		g_warning("cannot remove %s: %s", path, g_strerror(errno));
	return 0;
}

void cop_file_remove_tree(const char *path)
{
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0 && errno != ENOENT)
		g_warning("cannot remove %s: %s", path, g_strerror(errno));
}

uint64_t cop_file_used_bytes(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

gboolean cop_file_id(const char *path, struct cop_file_id *ret, GError **error)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return cop_gerror_errno(error, errno, "cannot read %s", path);
	ret->size_bytes = (uint64_t)st.st_size;
	ret->inode = st.st_ino;
	ret->mtime_ns = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
	ret->ctime_ns = st.st_ctim.tv_sec * 1000000000LL + st.st_ctim.tv_nsec;
	return TRUE;
}

gboolean cop_file_id_equal(const struct cop_file_id *a, const struct cop_file_id *b)
{
	return a->size_bytes == b->size_bytes && a->inode == b->inode &&
	       a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

gboolean cop_file_copy(const char *from, const char *to, int mode, GError **error)
{
	char buf[65536];
	ssize_t n;
	int in, out;

	in = cop_file_open(from, O_RDONLY, 0, error);
	if (in < 0)
		return FALSE;
	out = cop_file_open(to, O_WRONLY | O_CREAT | O_EXCL, mode, error);
	if (out < 0) {
		close(in);
		return FALSE;
	}
	while ((n = read(in, buf, sizeof(buf))) > 0 && write_all(out, buf, (gsize)n))
		;
	if (n == 0 && fchmod(out, (mode_t)mode) < 0) /* whatever the umask is */
		n = -1;
	if (n != 0) {
		cop_gerror_errno(error, errno, "cannot copy %s to %s", from, to);
		(void)unlink(to);
	}
	close(in);
	close(out);
	return n == 0;
}

char *cop_file_random_id(void)
{
	uint64_t value;

	if (getrandom(&value, sizeof(value), 0) != sizeof(value))
		g_error("getrandom: %s", g_strerror(errno)); /* never fails for 8 bytes */
	return g_strdup_printf("%016" PRIx64, value);
}

char *cop_file_size_text(uint64_t size_bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)size_bytes;
	unsigned unit = 0;

	while (value >= 1024 && unit + 1 < G_N_ELEMENTS(units)) {
		value /= 1024;
		unit++;
	}
	return g_strdup_printf("%.*f %s", unit ? 1 : 0, value, units[unit]);
}
