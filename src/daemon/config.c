/* Where things are, and the limits: see config.h. */
#include "config.h"
#include "gerror.h"

#include <sys/statvfs.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG_FILE "/etc/coppice/coppiced.conf"
/* Clones started side by side, a processor. More: the last one runs sooner, as clones that run take
 * time from those that start; fewer: the first one has more to itself, and answers sooner
 * (docs/BENCHMARKING.md has the figures). */
#define CLONE_WORKERS_A_CPU 2
/* A socket's path has at most 107 bytes; the longest of ours is DIR/vms/1023/shim.sock. */
#define MAX_DIR_BYTES 85

gboolean cop_config_parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	char *end = NULL;
	guint64 value;
	unsigned shift = 0;
	const char *unit;

	if (!text || !g_ascii_isdigit(*text))
		return FALSE;
	errno = 0;
	value = g_ascii_strtoull(text, &end, 10);
	if (errno)
		return FALSE;
	if (*end && (unit = strchr(units, g_ascii_toupper(*end)))) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (g_ascii_strcasecmp(end, "iB") == 0 || g_ascii_strcasecmp(end, "B") == 0)
			end = "";
	}
	if (*end || (shift && value >> (63 - shift)))
		return FALSE;
	*ret_bytes = value << shift;
	return TRUE;
}

static uint64_t host_memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A file of ours beside the daemon, in the build tree, or where it is installed. */
static char *find_part(const char *const *places, const char *name)
{
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *here = self ? g_path_get_dirname(self) : g_strdup(".");

	for (; *places; places++) {
		g_autofree char *path = g_build_filename(here, *places, name, NULL);

		if (g_file_test(path, G_FILE_TEST_IS_REGULAR))
			return g_canonicalize_filename(path, NULL);
	}
	return NULL;
}

static char *find_shim(void)
{
	static const char *const places[] = {"../shim", ".", "../lib/coppice",
					     "../lib/x86_64-linux-gnu/coppice", NULL};

	return find_part(places, "libcoppice-shim.so");
}

static char *find_pager(void)
{
	static const char *const places[] = {"../pager", ".", "../lib/coppice", NULL};

	return find_part(places, "coppice-pager");
}

static gboolean take_size(GError **error, const char *what, const char *text, uint64_t *ret)
{
	if (!text)
		return TRUE;
	if (!cop_config_parse_size(text, ret))
		return cop_gerror_set(error, COP_ERR_BAD_REQUEST,
				     "%s: '%s' is not a size\nwrite it like 512M or 5G", what,
				     text);
	return TRUE;
}

/* A key of the [limits] group, when the command line says nothing. */
static void from_file(GKeyFile *file, const char *key, char **text)
{
	if (!*text)
		*text = g_key_file_get_string(file, "limits", key, NULL);
}

static void set_default_dirs(struct cop_config *c)
{
	g_autofree char *hash = NULL;

	if (!c->dir && g_getenv("COPPICE_DIR"))
		c->dir = g_strdup(g_getenv("COPPICE_DIR"));
	if (!c->dir)
		c->dir = geteuid() == 0
				 ? g_strdup("/var/lib/coppice")
				 : g_build_filename(g_get_user_data_dir(), "coppice", NULL);
	else
		{
		char *given = c->dir;

		c->dir = g_canonicalize_filename(given, NULL);
		g_free(given);
	}
	hash = g_compute_checksum_for_string(G_CHECKSUM_SHA256, c->dir, -1);
	hash[16] = '\0';
	if (!c->ram_dir)
		c->ram_dir = g_strdup_printf("/dev/shm/coppice-%u-%s", geteuid(), hash);
	if (!c->cgroup)
		c->cgroup = g_strdup_printf("coppice-%s", hash);
}

struct cop_config *cop_config_new(int *argc, char ***argv, int *ret_ready_fd, GError **error)
{
	struct cop_config *c = g_new0(struct cop_config, 1);
	g_autoptr(GKeyFile) file = g_key_file_new();
	g_autoptr(GOptionContext) context = NULL;
	g_autofree char *max_vms = NULL, *max_memory = NULL, *max_disk = NULL, *limit = NULL;
	g_autofree char *budget = NULL;
	int uid_base = 878000000, workers = 0;
	static const char *const engines[] = {"auto", "pager", "kernel", NULL};
	gboolean version = FALSE;
	const GOptionEntry entries[] = {
		{"dir", 'd', 0, G_OPTION_ARG_FILENAME, &c->dir,
		 "State folder (default /var/lib/coppice, or in the user's data folder)", "DIR"},
		{"ram-dir", 0, 0, G_OPTION_ARG_FILENAME, &c->ram_dir,
		 "Folder on a tmpfs for RAM images (default one in /dev/shm)", "DIR"},
		{"config", 0, 0, G_OPTION_ARG_FILENAME, &c->config_file,
		 "Configuration file (default " DEFAULT_CONFIG_FILE ")", "FILE"},
		{"qemu", 0, 0, G_OPTION_ARG_FILENAME, &c->qemu,
		 "QEMU (default qemu-system-x86_64)", "PROGRAM"},
		{"shim", 0, 0, G_OPTION_ARG_FILENAME, &c->shim, "Library preloaded into QEMU",
		 "FILE"},
		{"max-vms", 0, 0, G_OPTION_ARG_STRING, &max_vms, "At most N VMs (default 256)",
		 "N"},
		{"max-memory", 0, 0, G_OPTION_ARG_STRING, &max_memory,
		 "At most this much guest RAM given to all VMs (default 32 times the host's)",
		 "SIZE"},
		{"max-disk", 0, 0, G_OPTION_ARG_STRING, &max_disk,
		 "At most this much host disk used (default 90 % of the file system)", "SIZE"},
		{"cgroup", 0, 0, G_OPTION_ARG_STRING, &c->cgroup,
		 "Name of the memory cgroup for the daemon and its VMs; '' for none", "NAME"},
		{"memory-limit", 0, 0, G_OPTION_ARG_STRING, &limit,
		 "Hard limit of that cgroup (default none)", "SIZE"},
		{"memory-budget", 0, 0, G_OPTION_ARG_STRING, &budget,
		 "The pager keeps what daemon and VMs cost below this (default: the hard limit)",
		 "SIZE"},
		{"engine", 0, 0, G_OPTION_ARG_STRING, &c->engine,
		 "Memory engine of VMs that don't say: auto (default), pager or kernel", "ENGINE"},
		{"pager", 0, 0, G_OPTION_ARG_FILENAME, &c->pager, "The paging program", "PROGRAM"},
		{"clone-workers", 0, 0, G_OPTION_ARG_INT, &workers,
		 "Clones started side by side (default 2 a processor)", "N"},
		{"uid-base", 0, 0, G_OPTION_ARG_INT, &uid_base,
		 "VM number N runs as user id UID + N when the daemon is root (default 878000000)",
		 "UID"},
		{"autostarted", 0, 0, G_OPTION_ARG_NONE, &c->autostarted,
		 "End when there is nothing to look after for ten minutes", NULL},
		{"ready-fd", 0, 0, G_OPTION_ARG_INT, ret_ready_fd,
		 "Write 'ready' or an error to this descriptor", "FD"},
		{"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
		{NULL}};

	*ret_ready_fd = -1;
	context = g_option_context_new("- looks after coppice's VMs and templates");
	g_option_context_add_main_entries(context, entries, NULL);
	if (!g_option_context_parse(context, argc, argv, error))
		goto fail;
	if (version) {
		g_print("coppiced %s\n", COPPICE_VERSION);
		exit(0);
	}
	if (*argc > 1) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST,
			      "unexpected argument '%s'\ntry 'coppiced --help'", (*argv)[1]);
		goto fail;
	}
	if (!g_key_file_load_from_file(file, c->config_file ?: DEFAULT_CONFIG_FILE, 0, error)) {
		if (c->config_file || !g_error_matches(*error, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
			g_prefix_error(error, "%s: ", c->config_file ?: DEFAULT_CONFIG_FILE);
			goto fail;
		}
		g_clear_error(error);
	}
	from_file(file, "max_vms", &max_vms);
	from_file(file, "max_memory", &max_memory);
	from_file(file, "max_disk", &max_disk);
	from_file(file, "memory_limit", &limit);
	from_file(file, "memory_budget", &budget);
	from_file(file, "engine", &c->engine);
	if (!c->engine)
		c->engine = g_strdup("auto");
	if (!g_strv_contains(engines, c->engine)) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST,
			       "there is no engine '%s'\nuse one of: auto, pager, kernel",
			       c->engine);
		goto fail;
	}
	set_default_dirs(c);
	if (strlen(c->dir) > MAX_DIR_BYTES) {
		cop_gerror_set(error, COP_ERR_BAD_REQUEST,
			      "the state folder's path is longer than %d bytes: %s\n"
			      "choose a shorter --dir: sockets in it have a limited length",
			      MAX_DIR_BYTES, c->dir);
		goto fail;
	}
	c->max_vms = 256;
	if (max_vms) {
		guint64 n;

		if (!g_ascii_string_to_unsigned(max_vms, 10, 1, 1023, &n, error))
			goto fail;
		c->max_vms = (unsigned)n;
	}
	c->max_memory_bytes = 32 * host_memory_bytes();
	if (!take_size(error, "max-memory", max_memory, &c->max_memory_bytes) ||
	    !take_size(error, "max-disk", max_disk, &c->max_disk_bytes) ||
	    !take_size(error, "memory-limit", limit, &c->cgroup_limit_bytes) ||
	    !take_size(error, "memory-budget", budget, &c->memory_budget_bytes))
		goto fail;
	c->uid_base = (uid_t)uid_base;
	c->clone_workers = workers > 0 ? (unsigned)MIN(workers, 64) : MIN(64, CLONE_WORKERS_A_CPU *
							 (unsigned)g_get_num_processors());
	if (!c->qemu)
		c->qemu = g_find_program_in_path("qemu-system-x86_64");
	c->qemu_img = g_find_program_in_path("qemu-img");
	if (!c->shim)
		c->shim = find_shim();
	if (!c->pager)
		c->pager = find_pager();
	if (!c->qemu || !c->qemu_img || !c->shim) {
		cop_gerror_set(error, COP_ERR_NOT_FOUND, "cannot find %s\n%s",
			      !c->qemu	     ? "qemu-system-x86_64"
			      : !c->qemu_img ? "qemu-img"
					     : "libcoppice-shim.so",
			      !c->shim ? "reinstall coppice, or use --shim FILE"
				       : "apt-get install qemu-system-x86 qemu-utils");
		goto fail;
	}
	return c;
fail:
	cop_config_free(c);
	return NULL;
}

void cop_config_free(struct cop_config *c)
{
	if (!c)
		return;
	g_free(c->dir);
	g_free(c->ram_dir);
	g_free(c->qemu);
	g_free(c->qemu_img);
	g_free(c->shim);
	g_free(c->pager);
	g_free(c->engine);
	g_free(c->cgroup);
	g_free(c->config_file);
	g_free(c);
}
