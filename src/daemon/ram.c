/* Where guest RAM lives: see ram.h.
 *
 * With the pager's engine the same images are mapped in the same way, and the pager (pager.h) makes
 * pages leave RAM and come back. It is told of every VM and image; while a VM is frozen it holds the
 * VM, whose pages then are all where the kernel's engine would have them.
 *
 * Freezing a booted VM, which maps its image shared: the image is the template's already; mark()
 * only has the shim map it private, so that later writes leave it alone.
 *
 * Freezing a clone, which maps its template's image private: begin() makes a new image, with the
 * template's bytes and the clone's private pages as they are then; mark() reads the private pages
 * again, now that they stand still, writes those that changed, and has the shim map the new image.
 * Nothing is lost: a page is private before mark() or it is the template's, whose bytes the new
 * image has from begin(); and a page that became private in between is private at mark().
 *
 * Invariants: 1. While a writer has an image mapped shared, no template owns it: mark() comes before
 * the template's manifest. 2. mark() runs with all vCPUs stopped and all I/O drained, so the bytes
 * before and after the remapping are the same.
 */
#include "ram.h"
#include "gerror.h"
#include "json.h"
#include "pager.h"
#include "uffd.h"
#include "proto/pager-client.h"
#include "proto/shim-client.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#define PAGE 4096ul
#define CHUNK_BYTES ((size_t)COP_PAGER_CHUNK_BYTES)
#define BATCH_BYTES (32 * CHUNK_BYTES) /* read and written at once */
#define TRIES 3
#define SHIM_TIMEOUT_MS 10000

struct cop_ram_freeze {
	struct cop_state *state;
	pid_t pid;
	char *old_id, *id; /* the same for a booted VM */
	int fd;
	uint64_t size_bytes;
	void *map; /* of the new image; NULL for a booted VM */
	uint8_t *reserved; /* a bit a page of the new image that is sure to have memory */
	struct cop_shim_client *shim;
	struct cop_shim_info where;
	struct cop_vm *vm;
	unsigned domain; /* of the new image */
	gboolean held;	 /* by the pager, until it is told what the VM maps */
};

/* Bytes that images in the folder may still grow by: a hole gets memory when it is first touched, also
 * by a clone's read. */
static uint64_t promised_bytes(struct cop_state *state)
{
	g_autoptr(GDir) dir = g_dir_open(state->config->ram_dir, 0, NULL);
	const char *name;
	uint64_t sum = 0;

	while (dir && (name = g_dir_read_name(dir))) {
		g_autofree char *path = cop_state_ram_path(state, name);
		struct stat st;

		if (lstat(path, &st) == 0)
			sum += (uint64_t)st.st_size -
			       MIN((uint64_t)st.st_size, (uint64_t)st.st_blocks * 512);
	}
	return sum;
}

/* A tmpfs that is full would end a QEMU with SIGBUS in the middle of its guest's work: so an image
 * is only made when all of them fit, whatever the guests touch. */
static gboolean check_room(struct cop_state *state, uint64_t size_bytes, GError **error)
{
	uint64_t promised = promised_bytes(state), left;
	g_autofree char *left_text = NULL, *need = NULL;
	struct statvfs fs;

	if (statvfs(state->config->ram_dir, &fs) < 0)
		return cop_gerror_errno(error, errno, "cannot use %s", state->config->ram_dir);
	left = (uint64_t)fs.f_bavail * fs.f_frsize;
	left -= MIN(left, promised);
	if (!fs.f_blocks || size_bytes <= left) /* a tmpfs of no size has no limit */
		return TRUE;
	left_text = cop_file_size_text(left);
	need = cop_file_size_text(size_bytes);
	return cop_gerror_set(error, COP_ERR_NO_SPACE,
			      "no room for a RAM image of %s in %s: %s are left\n"
			      "remove templates or booted VMs, or make that tmpfs larger: "
			      "mount -o remount,size=SIZE",
			      need, state->config->ram_dir, left_text);
}

/* Takes back what cop_ram_new() made. */
static void drop_image(struct cop_state *state, const char *id)
{
	g_autofree char *path = cop_state_ram_path(state, id);

	(void)unlink(path); /* it may not be there */
	cop_state_unpin(state, id);
}

char *cop_ram_new(struct cop_state *state, uint64_t size_bytes, GError **error)
{
	g_autofree char *id = cop_file_random_id();
	g_autofree char *path = cop_state_ram_path(state, id);
	int fd;

	if (!check_room(state, size_bytes, error))
		return NULL;
	cop_state_pin(state, id);
	fd = cop_file_open(path, O_RDWR | O_CREAT | O_EXCL, 0600, error);
	if (fd < 0 || ftruncate(fd, (off_t)size_bytes) < 0) {
		if (fd >= 0) {
			cop_gerror_errno(error, errno, "cannot make a RAM image of %" PRIu64
					 " bytes in %s", size_bytes, state->config->ram_dir);
			close(fd);
		}
		drop_image(state, id);
		return NULL;
	}
	close(fd);
	return g_steal_pointer(&id);
}

gboolean cop_ram_launch(struct cop_state *state, struct cop_launch *launch, const char *vm_dir,
			uid_t uid, const char *ram_id, gboolean shared, uint64_t size_bytes,
			gboolean paged, int listen_fd, GError **error)
{
	g_autoptr(GString) uffd = g_string_new("");
	g_autofree char *dummy = g_build_filename(vm_dir, "ram", NULL);
	g_autofree char *path = cop_state_ram_path(state, ram_id);
	int listen_nr = cop_launch_fd(launch, listen_fd), fd, ram_fd;
	struct stat st;

	(void)unlink(dummy); /* of an earlier run, or nothing */
	fd = cop_file_open(dummy, O_RDWR | O_CREAT | O_EXCL, 0600, error);
	if (fd < 0)
		return FALSE;
	if (ftruncate(fd, (off_t)size_bytes) < 0 || fstat(fd, &st) < 0 ||
	    (uid != (uid_t)-1 && fchown(fd, uid, (gid_t)-1) < 0)) {
		cop_gerror_errno(error, errno, "cannot set up %s", dummy);
		close(fd);
		return FALSE;
	}
	close(fd);
	ram_fd = cop_file_open(path, shared ? O_RDWR : O_RDONLY, 0, error);
	if (ram_fd < 0)
		return FALSE;
	if (paged) {
		int device = cop_uffd_open_device(error);

		if (device < -1)
			return FALSE;
		g_string_printf(uffd, ":uffd=%d", device < 0 ? 0 : cop_launch_fd(launch, device));
	}
	g_ptr_array_add(launch->env, g_strdup_printf("LD_PRELOAD=%s", state->config->shim));
	g_ptr_array_add(launch->env,
			g_strdup_printf(COP_SHIM_ENV "=1:listen=%d:ram=%d:mode=%s:dev=%" PRIu64
						     ":ino=%" PRIu64 ":size=%" PRIu64 ":uid=%u%s",
					listen_nr, cop_launch_fd(launch, ram_fd),
					shared ? "shared" : "private", (uint64_t)st.st_dev,
					(uint64_t)st.st_ino, size_bytes, geteuid(), uffd->str));
	return TRUE;
}

static gboolean ask_shim(struct cop_vm *vm, struct cop_shim_client **ret_client,
			 struct cop_shim_info *ret_info, GError **error)
{
	g_autofree char *dir = cop_state_vm_dir(vm->state, vm->id);
	g_autofree char *socket = g_build_filename(dir, "shim.sock", NULL);
	struct cop_error why = {0};

	if (cop_shim_client_new(socket, SHIM_TIMEOUT_MS, ret_client, &why) < 0 ||
	    cop_shim_client_hello(*ret_client, SHIM_TIMEOUT_MS, ret_info, &why) < 0)
		return cop_gerror_set(error, COP_ERR_INTERNAL,
				      "the shim in QEMU does not answer: %s", why.text);
	if (!ret_info->seen || ret_info->lost ||
	    ret_info->len_bytes != vm->machine->memory_bytes)
		return cop_gerror_set(error, COP_ERR_INTERNAL,
				      "the shim in QEMU does not hold the VM's memory");
	return TRUE;
}

gboolean cop_ram_check(struct cop_vm *vm, GError **error)
{
	struct cop_shim_client *client = NULL;
	struct cop_shim_info info = {0};
	gboolean ok = ask_shim(vm, &client, &info, error);

	cop_shim_client_free(client);
	if (ok && (info.mode == COP_SHIM_MODE_SHARED) != vm->ram_shared)
		ok = cop_gerror_set(error, COP_ERR_INTERNAL,
				    "QEMU has its memory mapped in the wrong way");
	return ok;
}

/* Copies the data parts of a sparse file. */
static gboolean copy_sparse(int in, int out, uint64_t size_bytes)
{
	off_t pos = 0;

	while ((uint64_t)pos < size_bytes) {
		off_t data = lseek(in, pos, SEEK_DATA), hole;

		if (data < 0)
			return errno == ENXIO; /* only a hole is left */
		hole = lseek(in, data, SEEK_HOLE);
		if (hole < 0)
			return FALSE;
		while (data < hole) {
			off_t out_pos = data;
			ssize_t n = copy_file_range(in, &data, out, &out_pos,
						    (size_t)(hole - data), 0);

			if (n <= 0)
				return FALSE;
		}
		pos = hole;
	}
	return TRUE;
}

/* Gives pages of the new image memory. Without this, writing through the mapping would end this
 * process with SIGBUS when the tmpfs is full. */
static gboolean reserve(struct cop_ram_freeze *f, const uint64_t *gfns, unsigned nr)
{
	for (unsigned i = 0; i < nr;) {
		unsigned first = i;

		if (f->reserved[gfns[i] / 8] >> gfns[i] % 8 & 1) {
			i++;
			continue;
		}
		do {
			f->reserved[gfns[i] / 8] |= (uint8_t)(1 << gfns[i] % 8);
			i++;
		} while (i < nr && gfns[i] == gfns[i - 1] + 1);
		if (fallocate(f->fd, 0, (off_t)(gfns[first] * PAGE),
			      (off_t)((i - first) * PAGE)) < 0)
			return FALSE;
	}
	return TRUE;
}

/* One pass over the guest's private pages: those that differ from the new image are written to it. */
static gboolean copy_private(struct cop_ram_freeze *f, GError **error)
{
	enum { BATCH = 512 };
	g_autofree char *path = g_strdup_printf("/proc/%d/pagemap", (int)f->pid);
	g_autofree uint8_t *buf = g_malloc(BATCH * PAGE);
	uint64_t entries[BATCH];
	int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	gboolean ok = pagemap >= 0;

	for (uint64_t gfn = 0; ok && gfn < f->size_bytes / PAGE; gfn += BATCH) {
		uint64_t nr = MIN(BATCH, f->size_bytes / PAGE - gfn), addr;
		unsigned wanted = 0;
		uint64_t gfns[BATCH];
		struct iovec local = {.iov_base = buf}, remote[BATCH];

		addr = f->where.addr + gfn * PAGE;
		ok = pread(pagemap, entries, nr * 8, (off_t)(addr / PAGE * 8)) == (ssize_t)(nr * 8);
		for (uint64_t i = 0; ok && i < nr; i++) {
			gboolean present = entries[i] >> 63 & 1, swapped = entries[i] >> 62 & 1;
			gboolean of_file = entries[i] >> 61 & 1;

			if ((!present && !swapped) || of_file)
				continue;
			gfns[wanted] = gfn + i;
			remote[wanted].iov_base = (void *)(addr + i * PAGE);
			remote[wanted++].iov_len = PAGE;
		}
		local.iov_len = wanted * PAGE;
		if (ok && wanted)
			ok = process_vm_readv(f->pid, &local, 1, remote, wanted, 0) ==
			     (ssize_t)local.iov_len;
		ok = ok && reserve(f, gfns, wanted);
		for (unsigned i = 0; ok && i < wanted; i++) {
			uint8_t *to = (uint8_t *)f->map + gfns[i] * PAGE;

			if (memcmp(to, buf + i * PAGE, PAGE) != 0)
				memcpy(to, buf + i * PAGE, PAGE);
		}
	}
	if (!ok)
		cop_gerror_errno(error, errno, "cannot copy the VM's private memory");
	if (pagemap >= 0)
		close(pagemap);
	return ok;
}

static void drop_new_image(struct cop_ram_freeze *f)
{
	if (f->map)
		munmap(f->map, f->size_bytes);
	f->map = NULL;
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	if (f->id)
		drop_image(f->state, f->id);
	g_clear_pointer(&f->id, g_free);
	g_clear_pointer(&f->reserved, g_free);
}

/* A clone's new image, with the bytes of the old one. */
static gboolean new_image(struct cop_ram_freeze *f, GError **error)
{
	g_autofree char *old_path = cop_state_ram_path(f->state, f->old_id);
	g_autofree char *path = NULL;
	int old;

	f->id = cop_ram_new(f->state, f->size_bytes, error);
	if (!f->id)
		return FALSE;
	path = cop_state_ram_path(f->state, f->id);
	f->fd = cop_file_open(path, O_RDWR, 0, error);
	old = f->fd < 0 ? -1 : cop_file_open(old_path, O_RDONLY, 0, error);
	if (old < 0)
		return FALSE;
	if (!copy_sparse(old, f->fd, f->size_bytes)) {
		cop_gerror_errno(error, errno, "cannot copy the RAM image to %s", path);
		close(old);
		return FALSE;
	}
	close(old);
	f->map = mmap(NULL, f->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->map == MAP_FAILED) {
		f->map = NULL;
		return cop_gerror_errno(error, errno, "cannot map %s", path);
	}
	f->reserved = g_malloc0(f->size_bytes / PAGE / 8 + 1);
	return copy_private(f, error);
}

/* Is the image really what QEMU has mapped there? A wrong one would become a template of wrong
 * bytes. Pages that were evicted have left anonymous memory in its place. */
static gboolean check_mapped(struct cop_ram_freeze *f, GError **error)
{
	g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)f->pid);
	g_autofree char *image = cop_state_ram_path(f->state, f->old_id);
	FILE *file = fopen(path, "re");
	gboolean seen = FALSE, other = FALSE;
	char line[512];
	struct stat st;

	if (stat(image, &st) < 0)
		st.st_ino = 0;
	while (file && fgets(line, sizeof(line), file)) {
		unsigned long from, to, inode;

		if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &from, &to, &inode) != 3 ||
		    to <= f->where.addr || from >= f->where.addr + f->size_bytes)
			continue;
		seen = seen || (inode == st.st_ino && st.st_ino);
		other = other || (inode ? inode != st.st_ino : !cop_machine_is_paged(f->vm->machine));
	}
	if (file)
		fclose(file);
	return (seen && !other) || cop_gerror_set(error, COP_ERR_INTERNAL,
						  "QEMU has another RAM image mapped than %s",
						  image);
}

/* The new image, with the pager seeing to it that all of the old one is in RAM meanwhile. */
static gboolean new_image_paged(struct cop_ram_freeze *f, GError **error)
{
	for (int i = 0; i < TRIES; i++) {
		struct cop_pager_client *loaded = cop_pager_load(f->state, f->old_id, error);
		gboolean ok, still;

		if (!loaded)
			return FALSE;
		ok = new_image(f, error);
		still = cop_pager_is_loaded(loaded);
		cop_pager_client_free(loaded);
		if (still || !ok)
			return ok;
		/* It died: pages may have been missing. */
		drop_new_image(f);
	}
	return cop_gerror_set(error, COP_ERR_INTERNAL, "the pager ended %d times while the RAM "
			      "image was copied", TRIES);
}

struct cop_ram_freeze *cop_ram_freeze_begin(struct cop_vm *vm, unsigned domain, GError **error)
{
	struct cop_ram_freeze *f = g_new0(struct cop_ram_freeze, 1);
	gboolean ok, paged = cop_machine_is_paged(vm->machine);

	f->vm = vm;
	f->domain = domain;
	f->state = vm->state;
	f->size_bytes = vm->machine->memory_bytes;
	f->fd = -1;
	g_mutex_lock(&vm->state->lock);
	f->pid = vm->pid;
	f->old_id = g_strdup(vm->ram_id);
	g_mutex_unlock(&vm->state->lock);
	ok = f->old_id != NULL;
	if (!ok)
		cop_gerror_set(error, COP_ERR_INTERNAL, "QEMU has ended");
	else if (paged)
		ok = f->held = cop_pager_hold(vm, error);
	if (!ok)
		; /* said already */
	else if (!ask_shim(vm, &f->shim, &f->where, error) || !check_mapped(f, error))
		ok = FALSE;
	else if (f->where.mode == COP_SHIM_MODE_SHARED) {
		g_autofree char *path = cop_state_ram_path(f->state, f->old_id);

		f->id = g_strdup(f->old_id);
		cop_state_pin(f->state, f->id);
		f->fd = cop_file_open(path, O_RDONLY, 0, error);
		ok = f->fd >= 0;
	} else {
		ok = paged ? new_image_paged(f, error) : new_image(f, error);
	}
	if (!ok) {
		cop_ram_freeze_end(f);
		return NULL;
	}
	return f;
}

/* The pager is told what the VM maps now, and may evict again. */
static gboolean end_hold(struct cop_ram_freeze *f, GError **error)
{
	f->held = FALSE;
	return cop_pager_release(f->vm, error);
}

gboolean cop_ram_freeze_mark(struct cop_ram_freeze *f, GError **error)
{
	struct cop_error why = {0};

	if (f->map && !copy_private(f, error))
		return FALSE;
	if (cop_shim_client_map_private(f->shim, f->fd, SHIM_TIMEOUT_MS, &f->where, &why) < 0)
		return cop_gerror_set(error, COP_ERR_INTERNAL,
				      "the shim in QEMU could not make the memory private: %s",
				      why.text);
	if (!f->held)
		return TRUE;
	/* Before the VM goes on: its next fault is for the new image. */
	g_mutex_lock(&f->state->lock);
	if (f->vm->ram_id) {
		g_free(f->vm->ram_id);
		f->vm->ram_id = g_strdup(f->id);
		f->vm->ram_shared = FALSE;
		f->vm->domain = f->domain;
	}
	g_mutex_unlock(&f->state->lock);
	return cop_pager_add_image(f->state, f->id, f->size_bytes, f->domain, NULL, TRUE, error) &&
	       end_hold(f, error);
}

const char *cop_ram_freeze_id(const struct cop_ram_freeze *f)
{
	return f->id;
}

void cop_ram_freeze_end(struct cop_ram_freeze *f)
{
	g_autoptr(GError) why = NULL;

	if (!f)
		return;
	if (f->held) {
		/* The kernel knows what it maps, wherever the freeze failed. */
		cop_ram_note_mapping(f->vm);
		if (!end_hold(f, &why))
			g_warning("VM '%s': %s", f->vm->name, why->message);
	}
	if (f->map)
		munmap(f->map, f->size_bytes);
	if (f->fd >= 0)
		close(f->fd);
	cop_shim_client_free(f->shim);
	if (f->id)
		cop_state_unpin(f->state, f->id);
	g_free(f->reserved);
	g_free(f->id);
	g_free(f->old_id);
	g_free(f);
}

static gboolean all_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* Writes pages, runs of zero pages left out. */
static gboolean write_pages(int fd, const uint8_t *data, size_t len, uint64_t pos,
			    uint64_t *data_bytes)
{
	size_t at = 0;

	while (at < len) {
		size_t end = at;

		while (end < len && !all_zero(data + end, MIN(PAGE, len - end)))
			end += MIN(PAGE, len - end);
		*data_bytes += end - at;
		while (at < end) {
			ssize_t n = pwrite(fd, data + at, end - at, (off_t)(pos + at));

			if (n < 0)
				return FALSE;
			at += (size_t)n;
		}
		at += PAGE;
	}
	return TRUE;
}

/* Reads what is at pos; *ret_hole when all of it is a hole. */
static gboolean read_part(int fd, uint8_t *buf, size_t len, uint64_t pos, gboolean *ret_hole)
{
	off_t data = lseek(fd, (off_t)pos, SEEK_DATA);
	size_t done = 0;

	*ret_hole = (data < 0 && errno == ENXIO) || (data >= 0 && (uint64_t)data >= pos + len);
	while (!*ret_hole && done < len) {
		ssize_t n = pread(fd, buf + done, len - done, (off_t)(pos + done));

		if (n == 0)
			errno = EIO; /* shorter than it was */
		if (n <= 0)
			return FALSE;
		done += (size_t)n;
	}
	return TRUE;
}

/* 0 for a chunk of zeros; a sum that is 0 counts as 1. */
static uint64_t chunk_sum(const uint8_t *buf, size_t len)
{
	uint64_t sum;

	if (all_zero(buf, len))
		return 0;
	sum = XXH3_64bits(buf, len);
	return sum ? sum : 1;
}

static size_t nr_chunks(uint64_t size_bytes)
{
	return (size_t)((size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static char *sums_path(const char *path)
{
	return g_strconcat(path, ".sums", NULL);
}

/* Beside the image, with their own checksum into the manifest. */
static gboolean save_sums(const char *path, const uint64_t *sums, size_t nr, JsonObject *obj,
			  GError **error)
{
	g_autofree char *to = sums_path(path);
	char text[17];

	g_snprintf(text, sizeof(text), "%016" PRIx64,
		   (uint64_t)XXH3_64bits(sums, nr * sizeof(*sums)));
	json_object_set_string_member(obj, "sums_xxh3", text);
	return cop_file_replace(to, sums, nr * sizeof(*sums), TRUE, error);
}

gboolean cop_ram_check_sums(const char *path, JsonObject *obj, uint64_t **ret_sums, GError **error)
{
	uint64_t size = (uint64_t)cop_json_int(obj, "size_bytes", -1, NULL);
	size_t len = nr_chunks(size) * sizeof(uint64_t);
	g_autofree char *from = sums_path(path);
	g_autofree uint64_t *sums = NULL;
	char text[17];
	int fd;
	ssize_t n;

	if (size > INT64_MAX)
		return cop_gerror_set(error, COP_ERR_DAMAGED,
				      "the RAM image %s has no size in its manifest", path);
	fd = cop_file_open(from, O_RDONLY, 0, error);
	if (fd < 0)
		return FALSE;
	sums = g_malloc0(len + 1); /* the byte too many tells a longer file */
	n = pread(fd, sums, len + 1, 0);
	close(fd);
	g_snprintf(text, sizeof(text), "%016" PRIx64, (uint64_t)XXH3_64bits(sums, len));
	if (n != (ssize_t)len || strcmp(text, cop_json_str(obj, "sums_xxh3", "", NULL)) != 0)
		return cop_gerror_set(error, COP_ERR_DAMAGED,
				      "the checksums of the RAM image, %s, were altered\n"
				      "restore the file, or remove the template", from);
	if (ret_sums)
		*ret_sums = g_steal_pointer(&sums);
	return TRUE;
}

gboolean cop_ram_save(struct cop_state *state, const char *ram_id, const char *path,
		      JsonObject *obj, GError **error)
{
	g_autofree char *from = cop_state_ram_path(state, ram_id);
	g_autofree uint8_t *buf = g_malloc(BATCH_BYTES);
	g_autofree uint64_t *sums = NULL;
	int in = cop_file_open(from, O_RDONLY, 0, error), out = -1;
	uint64_t data_bytes = 0;
	struct stat st = {0};
	gboolean ok = in >= 0 && fstat(in, &st) == 0;

	sums = g_new0(uint64_t, nr_chunks((uint64_t)st.st_size) + 1);
	if (ok) {
		out = cop_file_open(path, O_RDWR | O_CREAT | O_EXCL, 0600, error);
		ok = out >= 0 && ftruncate(out, st.st_size) == 0;
	}
	for (uint64_t pos = 0; ok && pos < (uint64_t)st.st_size; pos += BATCH_BYTES) {
		size_t len = MIN(BATCH_BYTES, (uint64_t)st.st_size - pos);
		gboolean hole;

		ok = read_part(in, buf, len, pos, &hole);
		for (size_t at = 0; ok && !hole && at < len; at += CHUNK_BYTES)
			sums[(pos + at) / CHUNK_BYTES] =
				chunk_sum(buf + at, MIN(CHUNK_BYTES, len - at));
		ok = ok && (hole || write_pages(out, buf, len, pos, &data_bytes));
		/* Starts writing now, so that the sync at the end has less to do. */
		if (ok && !hole)
			(void)sync_file_range(out, (off_t)pos, (off_t)len, SYNC_FILE_RANGE_WRITE);
	}
	ok = ok && fsync(out) == 0;
	if (!ok && error && !*error)
		cop_gerror_errno(error, errno, "cannot write the RAM image to %s", path);
	ok = ok && save_sums(path, sums, nr_chunks((uint64_t)st.st_size), obj, error);
	if (ok)
		(void)posix_fadvise(out, 0, 0, POSIX_FADV_DONTNEED); /* the tmpfs copy is used */
	json_object_set_int_member(obj, "size_bytes", st.st_size);
	json_object_set_int_member(obj, "data_bytes", (gint64)data_bytes);
	if (in >= 0)
		close(in);
	if (out >= 0)
		close(out);
	return ok;
}

/* Compares chunks with their sums. */
static gboolean check_part(const char *path, const uint8_t *buf, size_t len, uint64_t pos,
			   gboolean hole, const uint64_t *sums, GError **error)
{
	for (size_t at = 0; at < len; at += CHUNK_BYTES) {
		uint64_t sum = hole ? 0 : chunk_sum(buf + at, MIN(CHUNK_BYTES, len - at));

		if (sum != sums[(pos + at) / CHUNK_BYTES])
			return cop_gerror_set(error, COP_ERR_DAMAGED,
					      "the RAM image %s was altered: checksum differs at "
					      "byte %" PRIu64
					      "\nrestore the file, or remove the template",
					      path, pos + at);
	}
	return TRUE;
}

int cop_ram_open_saved(const char *path, JsonObject *obj, GError **error)
{
	uint64_t size = (uint64_t)cop_json_int(obj, "size_bytes", -1, NULL);
	int fd = cop_file_open(path, O_RDONLY, 0, error);
	struct stat st = {0};

	if (fd < 0 || (fstat(fd, &st) == 0 && (uint64_t)st.st_size == size))
		return fd;
	close(fd);
	cop_gerror_set(error, COP_ERR_DAMAGED,
		       "the RAM image %s has %" PRIu64 " bytes, it should have %" PRIu64
		       "\nit was cut or replaced: restore the file, or remove the template",
		       path, (uint64_t)st.st_size, size);
	return -1;
}

gboolean cop_ram_load(struct cop_state *state, const char *path, JsonObject *obj, char **ret_id,
		      GError **error)
{
	uint64_t size = (uint64_t)cop_json_int(obj, "size_bytes", 0, NULL), ignored = 0;
	g_autofree uint8_t *buf = g_malloc(BATCH_BYTES);
	g_autofree uint64_t *sums = NULL;
	g_autofree char *id = NULL;
	int in = cop_ram_open_saved(path, obj, error), out = -1;
	gboolean ok = in >= 0 && cop_ram_check_sums(path, obj, &sums, error);

	if (ok && ret_id) {
		id = cop_ram_new(state, size, error);
		if (id) {
			g_autofree char *to = cop_state_ram_path(state, id);

			out = cop_file_open(to, O_RDWR, 0, error);
		}
		ok = out >= 0;
	}
	for (uint64_t pos = 0; ok && pos < size; pos += BATCH_BYTES) {
		size_t len = MIN(BATCH_BYTES, size - pos);
		gboolean hole;

		if (!read_part(in, buf, len, pos, &hole))
			ok = cop_gerror_errno(error, errno, "cannot read %s", path);
		else if (!check_part(path, buf, len, pos, hole, sums, error))
			ok = FALSE;
		else if (out >= 0 && !hole && !write_pages(out, buf, len, pos, &ignored))
			ok = cop_gerror_errno(error, errno, "cannot bring %s into memory", path);
	}
	if (in >= 0) {
		(void)posix_fadvise(in, 0, 0, POSIX_FADV_DONTNEED);
		close(in);
	}
	if (out >= 0)
		close(out);
	if (ok && ret_id)
		*ret_id = g_steal_pointer(&id);
	else if (id)
		drop_image(state, id);
	return ok;
}

void cop_ram_note_mapping(struct cop_vm *vm)
{
	g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)vm->pid);
	g_autofree char *prefix = g_strconcat(" ", vm->state->config->ram_dir, "/", NULL);
	FILE *file = fopen(path, "re");
	char line[512];

	while (file && fgets(line, sizeof(line), file)) {
		const char *at = strstr(line, prefix), *perms = strchr(line, ' ');
		char id[17];

		if (!at || !perms || sscanf(at + strlen(prefix), "%16[0-9a-f]", id) != 1)
			continue;
		g_mutex_lock(&vm->state->lock);
		if (vm->ram_id) { /* it still runs */
			g_free(vm->ram_id);
			vm->ram_id = g_strdup(id);
			vm->ram_shared = perms[4] == 's';
		}
		g_mutex_unlock(&vm->state->lock);
		break;
	}
	if (file)
		fclose(file);
}

/* Where guest RAM is: pieces of its file tell by their offset, also when others were replaced. */
static gboolean find_region(pid_t pid, const char *ram_path, unsigned long *ret_addr)
{
	g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)pid);
	FILE *file = fopen(path, "re");
	gboolean found = FALSE;
	char line[512];

	while (file && !found && fgets(line, sizeof(line), file)) {
		unsigned long from, offset;

		line[strcspn(line, "\n")] = '\0';
		found = strstr(line, ram_path) &&
			sscanf(line, "%lx-%*x %*s %lx", &from, &offset) == 2;
		if (found)
			*ret_addr = from - offset;
	}
	if (file)
		fclose(file);
	return found;
}

gboolean cop_ram_measure(pid_t pid, const char *ram_path, gboolean ram_shared, uint64_t size_bytes,
			 struct cop_ram_use *ret)
{
	g_autofree char *path = g_strdup_printf("/proc/%d/smaps", (int)pid);
	g_autofree char *status = g_strdup_printf("/proc/%d/status", (int)pid);
	g_autofree char *text = NULL;
	unsigned long addr = 0;
	gboolean known = find_region(pid, ram_path, &addr), is_ram = FALSE;
	FILE *file = fopen(path, "re");
	unsigned long long kib, rss = 0;
	const char *at;
	char line[512];

	memset(ret, 0, sizeof(*ret));
	if (!file)
		return FALSE;
	while (fgets(line, sizeof(line), file)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			is_ram = known && from >= addr && from < addr + size_bytes;
			rss = 0;
		} else if (sscanf(line, "Rss: %llu kB", &kib) == 1) {
			rss = kib * 1024;
			if (is_ram && ram_shared)
				ret->private_bytes += rss;
		} else if (sscanf(line, "Anonymous: %llu kB", &kib) == 1) {
			if (!is_ram) {
				ret->vmm_bytes += kib * 1024;
			} else if (!ram_shared) {
				ret->private_bytes += kib * 1024;
				ret->shared_bytes += rss - MIN(rss, kib * 1024);
			}
		}
	}
	fclose(file);
	if (g_file_get_contents(status, &text, NULL, NULL) && (at = strstr(text, "VmPTE:")) &&
	    sscanf(at, "VmPTE: %llu", &kib) == 1)
		ret->page_table_bytes = kib * 1024;
	return TRUE;
}
