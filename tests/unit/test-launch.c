/* SPDX-License-Identifier: MIT */
/* test-launch.c: QEMU's arguments, and what a started process gets and does not get. */
#include "unit.h"

#include "daemon/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

static char *dir, *log_path;

static int setup(void **state)
{
	struct rlimit files;

	dir = scratch_new();
	log_path = g_build_filename(dir, "log", NULL);
	/* As the daemon does. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	return 0;
}

static int teardown(void **state)
{
	g_free(log_path);
	scratch_free(dir);
	return 0;
}

static struct cop_machine *machine_new(void)
{
	struct cop_machine *m = cop_machine_new();

	m->type = g_strdup("pc-i440fx-7.2");
	m->accel = g_strdup("tcg");
	m->memory_bytes = 64 << 20;
	m->cpus = 3;
	m->display = g_strdup("vga");
	m->network = g_strdup("user");
	m->kernel = g_strdup("kernelfile");
	m->initrd = g_strdup("initrdfile");
	m->append = g_strdup("console=ttyS0 a=\"b,c\"");
	m->agent = TRUE;
	return m;
}

static const struct cop_launch_run boot = {.name = "vm-1", .qmp_fd = 3, .console_fd = 4,
					   .agent_fd = 5};
static const struct cop_launch_run incoming = {
	.name = "vm-2", .qmp_fd = 5, .console_fd = 6, .agent_fd = 8, .incoming = TRUE};

static struct cop_launch *launch_of(const struct cop_machine *m, const struct cop_launch_run *run)
{
	struct cop_launch *launch = cop_launch_new("qemu");

	cop_launch_machine(launch, m, run);
	return launch;
}

static guint find(const struct cop_launch *launch, const char *word)
{
	for (guint i = 0; i < launch->argv->len; i++) {
		if (strcmp(launch->argv->pdata[i], word) == 0)
			return i;
	}
	return 0;
}

/* The word after the option, or "" without the option. */
static const char *after(const struct cop_launch *launch, const char *option)
{
	guint i = find(launch, option);

	assert_true(i + 1 < launch->argv->len);
	return i ? launch->argv->pdata[i + 1] : "";
}

/* All words behind every such option, joined. */
static char *all_after(const struct cop_launch *launch, const char *option)
{
	GString *s = g_string_new(NULL);

	for (guint i = 0; i + 1 < launch->argv->len; i++) {
		if (strcmp(launch->argv->pdata[i], option) == 0)
			g_string_append_printf(s, "%s\n", (char *)launch->argv->pdata[i + 1]);
	}
	return g_string_free(s, FALSE);
}

/* Catches: an argument that boots another machine than the one described. */
static void test_boot_arguments(void **state)
{
	struct cop_machine *m = machine_new();
	struct cop_launch *launch = launch_of(m, &boot);
	g_autofree char *chardevs = all_after(launch, "-chardev");

	assert_string_equal(launch->argv->pdata[0], "qemu");
	assert_string_equal(after(launch, "-name"), "vm-1");
	assert_true(g_str_has_prefix(after(launch, "-machine"), "pc-i440fx-7.2,"));
	assert_true(g_str_has_prefix(after(launch, "-accel"), "tcg"));
	assert_string_equal(after(launch, "-smp"), "3");
	assert_string_equal(after(launch, "-m"), "size=67108864b");
	assert_non_null(strstr(after(launch, "-object"), "id=ram0,share=on"));
	assert_non_null(strstr(after(launch, "-object"), "size=67108864,mem-path=ram"));
	assert_string_equal(after(launch, "-kernel"), "kernel");
	assert_string_equal(after(launch, "-initrd"), "initrd");
	assert_string_equal(after(launch, "-append"), "console=ttyS0 a=\"b,c\"");
	assert_string_equal(chardevs, "socket,id=qmp,fd=3,server=on,wait=off\n"
				      "socket,id=console,fd=4,server=on,wait=off\n"
				      "socket,id=agent,fd=5,server=on,wait=off\n");
	assert_string_equal(after(launch, "-vnc"), "none");
	assert_int_equal(find(launch, "-incoming"), 0);
	assert_int_equal(find(launch, "-S"), 0);
	cop_launch_free(launch);
	cop_machine_free(m);
}

/* Catches: a QEMU that reads the user's files or may start programs, whoever it runs as. */
static void test_confinement(void **state)
{
	struct cop_machine *m = machine_new();
	const struct cop_launch_run *runs[] = {&boot, &incoming};

	for (int i = 0; i < 2; i++) {
		struct cop_launch *launch = launch_of(m, runs[i]);

		assert_true(find(launch, "-no-user-config") && find(launch, "-nodefaults"));
		assert_non_null(strstr(after(launch, "-sandbox"), "on,"));
		assert_non_null(strstr(after(launch, "-sandbox"), "spawn=deny"));
		assert_non_null(strstr(after(launch, "-sandbox"), "elevateprivileges=deny"));
		assert_string_equal(after(launch, "-display"), "none");
		cop_launch_free(launch);
	}
	cop_machine_free(m);
}

/* Catches: a clone that begins to boot, or runs before its memory and devices are loaded. */
static void test_incoming_arguments(void **state)
{
	struct cop_machine *m = machine_new();
	struct cop_launch *launch = launch_of(m, &incoming);

	assert_true(find(launch, "-S"));
	assert_string_equal(after(launch, "-incoming"), "defer");
	assert_int_equal(find(launch, "-kernel"), 0);
	assert_int_equal(find(launch, "-initrd"), 0);
	assert_int_equal(find(launch, "-append"), 0);
	assert_string_equal(after(launch, "-action"), "reboot=shutdown");
	cop_launch_free(launch);
	g_clear_pointer(&m->kernel, g_free); /* it boots from its disk: it can reboot */
	launch = launch_of(m, &incoming);
	assert_int_equal(find(launch, "-action"), 0);
	cop_launch_free(launch);
	cop_machine_free(m);
}

/* Catches: an option of the machine that changes nothing. */
static void test_variants(void **state)
{
	struct cop_machine *m = machine_new();
	struct cop_launch_run run = boot;
	struct cop_launch *launch;
	g_autofree char *devices = NULL;

	run.ssh_port = 2222;
	launch = launch_of(m, &run);
	assert_string_equal(after(launch, "-netdev"),
			    "user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22");
	cop_launch_free(launch);
	g_free(m->network);
	m->network = g_strdup("isolated");
	launch = launch_of(m, &boot);
	assert_string_equal(after(launch, "-netdev"), "user,id=net0,restrict=on");
	cop_launch_free(launch);
	g_free(m->network);
	g_free(m->display);
	g_free(m->accel);
	m->network = g_strdup("none");
	m->display = g_strdup("none");
	m->accel = g_strdup("kvm");
	g_clear_pointer(&m->append, g_free);
	g_strfreev(m->extra_args);
	m->extra_args = g_strsplit("-x y,z", " ", 0);
	launch = launch_of(m, &run);
	assert_int_equal(find(launch, "-netdev"), 0);
	assert_int_equal(find(launch, "-vnc"), 0);
	assert_string_equal(after(launch, "-accel"), "kvm");
	assert_string_equal(after(launch, "-cpu"), "host");
	assert_string_equal(after(launch, "-append"), "");
	assert_string_equal(after(launch, "-x"), "y,z");
	devices = all_after(launch, "-device");
	assert_string_equal(launch->argv->pdata[launch->argv->len - 1], "y,z");
	assert_non_null(strstr(devices, "virtserialport,"));
	assert_non_null(strstr(devices, "vmgenid,"));
	cop_launch_free(launch);
	m->agent = FALSE; /* frozen before there were such devices */
	launch = launch_of(m, &run);
	g_free(devices);
	devices = all_after(launch, "-device");
	assert_null(strstr(devices, "serial"));
	assert_null(strstr(devices, "vmgenid"));
	cop_launch_free(launch);
	cop_machine_free(m);
}

static struct cop_disk *disk_of(const char *const *paths, gboolean raw_base)
{
	struct cop_disk *disk = cop_disk_new(1 << 20);

	for (int i = 0; paths[i]; i++)
		g_ptr_array_add(disk->layers,
				cop_layer_new(paths[i], paths[i][0] == '/', i == 0 && raw_base));
	return disk;
}

/* Catches: devices of a clone in another order or with another name than in the VM that was frozen:
 * its state would load into the wrong device, or not at all. */
static void test_clone_has_the_same_devices(void **state)
{
	static const char *const vm0[] = {"/base0", "a", NULL}, *const vm1[] = {"/base1", "b",
										NULL};
	static const char *const clone0[] = {"/base0", "a", "c", NULL};
	static const char *const clone1[] = {"/base1", "b", "d", NULL};
	static const int fds[] = {7, 8, 9};
	struct cop_machine *m = machine_new(), *copy = cop_machine_copy(m);
	struct cop_launch *a = launch_of(m, &boot), *b = launch_of(copy, &incoming);
	struct cop_disk *disks[] = {disk_of(vm0, TRUE), disk_of(vm1, FALSE), disk_of(clone0, TRUE),
				    disk_of(clone1, FALSE)};
	static const char *const same[] = {"-device", "-machine", "-m",	     "-smp",
					   "-cpu",    "-accel",	  "-object", "-serial",
					   "-mon",    "-netdev",  "-vnc"};

	for (unsigned i = 0; i < 2; i++) {
		cop_launch_disk(a, disks[i], i, fds);
		cop_launch_disk(b, disks[2 + i], i, fds);
	}
	for (size_t i = 0; i < G_N_ELEMENTS(same); i++) {
		g_autofree char *x = all_after(a, same[i]), *y = all_after(b, same[i]);
		g_autoptr(GRegex) drive = g_regex_new("drive=n[0-9a-f]{16}", 0, 0, NULL);
		g_autofree char *p = g_regex_replace_literal(drive, x, -1, 0, "drive=", 0, NULL);
		g_autofree char *q = g_regex_replace_literal(drive, y, -1, 0, "drive=", 0, NULL);

		assert_true(*x != '\0');
		assert_string_equal(p, q);
		if (strcmp(same[i], "-device") == 0) {
			assert_non_null(strstr(p, "virtio-blk-pci,drive=,id=disk0\n"
						  "virtio-blk-pci,drive=,id=disk1\n"));
		}
	}
	for (int i = 0; i < 4; i++)
		cop_disk_free(disks[i]);
	cop_launch_free(a);
	cop_launch_free(b);
	cop_machine_free(m);
	cop_machine_free(copy);
}

/* The JSON objects behind -blockdev; each must be one whole object. */
static GPtrArray *blockdevs(const struct cop_launch *launch)
{
	GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)json_object_unref);

	for (guint i = 0; i + 1 < launch->argv->len; i++) {
		GError *error = NULL;

		if (strcmp(launch->argv->pdata[i], "-blockdev") != 0)
			continue;
		g_ptr_array_add(all, cop_json_parse(launch->argv->pdata[i + 1], -1, &error));
		expect_no_error(error);
	}
	return all;
}

static const char *str(JsonObject *obj, const char *key)
{
	return cop_json_str(obj, key, "", NULL);
}

/* Checks one disk's nodes against its layers, and what the device stands on. */
static void expect_chain(const struct cop_disk *disk, const int *fds)
{
	static const char *const file_keys[] = {"driver",    "node-name", "filename",
						"read-only", "discard",	  NULL};
	static const char *const node_keys[] = {"driver",  "node-name", "file", "read-only",
						"discard", "backing",	NULL};
	struct cop_launch *launch = cop_launch_new("qemu");
	g_autoptr(GPtrArray) nodes = NULL;
	g_autofree char *sets = NULL, *wanted_device = NULL;
	GString *wanted_sets = g_string_new(NULL);
	guint nr = disk->layers->len;

	cop_launch_disk(launch, disk, 5, fds);
	nodes = blockdevs(launch);
	assert_int_equal(nodes->len, 2 * nr);
	for (guint i = 0; i < nr; i++) {
		JsonObject *file = nodes->pdata[2 * i], *node = nodes->pdata[2 * i + 1];
		const struct cop_layer *layer = disk->layers->pdata[i];
		g_autofree char *name = g_strdup_printf("/dev/fdset/%d", fds[i]);
		g_autofree char *node_name = cop_launch_node(layer, 'n');

		g_string_append_printf(wanted_sets, "set=%d,fd=%d\n", fds[i], fds[i]);
		assert_true(cop_json_only(file, file_keys, NULL));
		assert_true(cop_json_only(node, node_keys, NULL));
		assert_string_equal(str(file, "driver"), "file");
		assert_string_equal(str(file, "filename"), name);
		assert_string_equal(str(node, "driver"), layer->raw ? "raw" : "qcow2");
		assert_string_equal(str(node, "file"), str(file, "node-name"));
		assert_string_equal(str(node, "node-name"), node_name);
		assert_int_equal(cop_json_bool(file, "read-only", TRUE, NULL), i + 1 < nr);
		assert_int_equal(cop_json_bool(node, "read-only", TRUE, NULL), i + 1 < nr);
		if (i > 0)
			assert_string_equal(str(node, "backing"),
					    str(nodes->pdata[2 * i - 1], "node-name"));
		else if (!layer->raw) /* else QEMU would open what the image's header names */
			assert_true(json_object_get_null_member(node, "backing"));
		else
			assert_false(json_object_has_member(node, "backing"));
	}
	sets = all_after(launch, "-add-fd");
	assert_string_equal(sets, wanted_sets->str);
	g_string_free(wanted_sets, TRUE);
	wanted_device = g_strdup_printf("virtio-blk-pci,drive=%s,id=disk5",
					str(nodes->pdata[2 * nr - 1], "node-name"));
	assert_string_equal(after(launch, "-device"), wanted_device);
	cop_launch_free(launch);
}

/* Catches: a shared layer that is writable, a chain in the wrong order, a device on a lower layer.
 */
static void test_chains(void **state)
{
	static const char *const names[] = {"/base", "a", "b", "c", "d"};
	static const int fds[] = {11, 7, 30, 9, 12}, lengths[] = {1, 2, 5};

	for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
		for (int raw = 0; raw < 2; raw++) {
			const char *paths[6] = {NULL};
			struct cop_disk *disk;

			memcpy(paths, names, (size_t)lengths[i] * sizeof(*names));
			disk = disk_of(paths, raw);
			expect_chain(disk, fds);
			cop_disk_free(disk);
		}
	}
}

/* Catches: a path that ends a string or option of QEMU's and goes on with options of its own. */
static void test_hostile_texts(void **state)
{
	static const char *const paths[] = {
		"/a\",\"read-only\":false,\"x\":\"",
		"/a,readonly=off",
		"/a\\",
		"/a\n-drive",
		"/\xff\xfe",
		"/%s%n%d",
		"/a'}{\"",
	};
	static const int fds[] = {3, 4};

	for (size_t i = 0; i < G_N_ELEMENTS(paths); i++) {
		const char *chain[] = {paths[i], paths[(i + 1) % G_N_ELEMENTS(paths)], NULL};
		struct cop_disk *disk = disk_of(chain, FALSE);
		struct cop_machine *m = machine_new();
		struct cop_launch *launch;

		expect_chain(disk, fds);
		g_free(m->network);
		g_free(m->display);
		g_free(m->kernel);
		g_free(m->append);
		m->network = g_strconcat("user", paths[i], NULL);
		m->display = g_strconcat("vga", paths[i], NULL);
		m->kernel = g_strdup(paths[i] + 1);
		m->append = g_strdup(paths[i]);
		g_strfreev(m->extra_args);
		m->extra_args = g_new0(char *, 2);
		m->extra_args[0] = g_strdup(paths[i]);
		launch = launch_of(m, &boot);
		assert_string_equal(after(launch, "-append"), paths[i]);
		assert_string_equal(launch->argv->pdata[launch->argv->len - 1], paths[i]);
		for (guint j = 0; j + 1 < launch->argv->len; j++) {
			if (strstr(launch->argv->pdata[j], paths[i] + 1))
				assert_string_equal(launch->argv->pdata[j - 1], "-append");
		}
		cop_launch_free(launch);
		cop_machine_free(m);
		cop_disk_free(disk);
	}
}

/* Catches: two layers with one node name, or a name that QEMU does not take. */
static void test_node_names(void **state)
{
	g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

	for (int i = 0; i < 1000; i++) {
		g_autofree char *path = g_strdup_printf("%d.qcow2", i);
		struct cop_layer *layer = cop_layer_new(path, FALSE, FALSE);

		for (const char *kind = "fn"; *kind; kind++) {
			char *name = cop_launch_node(layer, *kind);

			assert_int_equal(strlen(name), 17);
			assert_int_equal(name[0], *kind);
			assert_int_equal(strspn(name + 1, "0123456789abcdef"), 16);
			assert_true(g_hash_table_add(seen, name));
		}
		cop_layer_free(layer);
	}
}

/* Catches: a VM with one image as the base of two disks, which QEMU refuses: a name given twice. */
static void test_one_base_for_two_disks(void **state)
{
	static const char *const first[] = {"/base", "a", NULL}, *const second[] = {"/base", "b",
										    NULL};
	static const int fds[] = {3, 4, 5, 6};

	struct cop_disk *x = disk_of(first, FALSE), *y = disk_of(second, FALSE);
	struct cop_launch *launch = cop_launch_new("qemu");
	g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
	g_autoptr(GPtrArray) nodes = NULL;

	cop_launch_disk(launch, x, 0, fds);
	cop_launch_disk(launch, y, 1, fds + 2);
	nodes = blockdevs(launch);
	for (guint i = 0; i < nodes->len; i++)
		assert_true(g_hash_table_add(seen, (char *)str(nodes->pdata[i], "node-name")));
	cop_launch_free(launch);
	cop_disk_free(x);
	cop_disk_free(y);
}

static const struct cop_launch_process *process(void)
{
	static struct cop_launch_process p = {
		.uid = (uid_t)-1, .gid = (gid_t)-1, .extra_gid = (gid_t)-1, .cgroup_procs_fd = -1};

	p.dir = dir;
	p.log_path = log_path;
	return &p;
}

static struct cop_launch *shell(const char *script)
{
	struct cop_launch *launch = cop_launch_new("/bin/sh");

	cop_launch_arg(launch, "-c");
	cop_launch_arg(launch, "%s", script);
	return launch;
}

static int exit_code(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Starts it, lets it go, waits for its end; what it printed. */
static char *output_of(struct cop_launch *launch, const struct cop_launch_process *p)
{
	GError *error = NULL;
	char *text = NULL;
	int go_fd = -1;
	pid_t pid;

	(void)unlink(log_path);
	pid = cop_launch_fork(launch, p, &go_fd, &error);
	expect_no_error(error);
	assert_true(pid > 0);
	assert_true(cop_launch_go(go_fd, launch->argv->pdata[0], &error));
	expect_no_error(error);
	assert_int_equal(exit_code(pid), 0);
	text = cop_file_read(log_path, 1 << 20, NULL, &error);
	expect_no_error(error);
	cop_launch_free(launch);
	return text;
}

#define LIST_FDS                                                                                   \
	"n=0; while [ $n -lt 1100 ]; do [ -L /proc/$$/fd/$n ] && "                                 \
	"echo $n $(readlink /proc/$$/fd/$n); n=$((n+1)); done; true"

/* Catches: descriptors under wrong numbers where sources and targets overlap; any that leaks. */
static void test_descriptors(void **state)
{
	struct cop_launch *launch = shell(LIST_FDS);
	GString *wanted = g_string_new(NULL);
	g_autofree char *text = NULL;
	int leaks[3], first = open("/dev/null", O_RDONLY), fds[6];

	/* Not close-on-exec, low and high: none may get through. */
	leaks[0] = first;
	leaks[1] = fcntl(first, F_DUPFD, 450);
	leaks[2] = fcntl(first, F_DUPFD, 900);
	g_string_printf(wanted, "0 /dev/null\n1 %s\n2 %s\n", log_path, log_path);
	for (int i = 0; i < 6; i++) {
		g_autofree char *path = g_strdup_printf("%s/file%d", dir, i);

		fds[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		assert_true(fds[i] >= 0);
	}
	for (int i = 0; i < 6; i++) { /* backwards: targets are other sources' numbers */
		assert_int_equal(cop_launch_fd(launch, fds[5 - i]), COP_LAUNCH_FIRST_FD + i);
		g_string_append_printf(wanted, "%d %s/file%d\n", COP_LAUNCH_FIRST_FD + i, dir,
				       5 - i);
	}
	text = output_of(launch, process());
	assert_string_equal(text, wanted->str);
	for (int i = 0; i < 6; i++) { /* they were the launch's, which is freed */
		assert_int_equal(fcntl(fds[i], F_GETFD), -1);
	}
	for (int i = 0; i < 3; i++)
		close(leaks[i]);
	g_string_free(wanted, TRUE);
}

/* Catches: long chains whose descriptors reach into the numbers where sources are kept. */
static void test_many_descriptors(void **state)
{
	enum { NR = 450 };
	struct cop_launch *launch;
	g_autofree char *text = NULL;
	unsigned lines = 0;

	launch = shell(LIST_FDS);
	for (int i = 0; i < NR; i++)
		(void)cop_launch_fd(launch, open("/dev/zero", O_RDONLY | O_CLOEXEC));
	text = output_of(launch, process());
	for (const char *p = text; (p = strstr(p, "/dev/zero")); p++)
		lines++;
	assert_int_equal(lines, NR);
}

/* Catches: the daemon's environment (and its secrets) in a guest's QEMU. */
static void test_environment(void **state)
{
	struct cop_launch *launch = cop_launch_new("/usr/bin/env");
	g_autofree char *text = NULL;

	g_setenv("SECRET", "1", TRUE);
	g_ptr_array_add(launch->env, g_strdup("EXTRA=yes"));
	text = output_of(launch, process());
	assert_string_equal(text, "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C\n"
				  "MALLOC_ARENA_MAX=1\nEXTRA=yes\n");
}

/* Read by the shell itself: while it starts a program, it blocks signals. */
#define STATUS "while IFS= read -r line; do echo \"$line\"; done < /proc/$$/status; "

static char *status_line(const char *status, const char *key)
{
	g_autofree char *start = g_strdup_printf("\n%s:\t", key);
	const char *at = strstr(status, start);

	assert_non_null(at);
	at += strlen(start);
	return g_strndup(at, strcspn(at, "\n"));
}

/* Catches: blocked or ignored signals, the wrong folder, no session of its own, a gain of rights.
 */
static void test_process(void **state)
{
	g_autofree char *text = NULL, *blocked = NULL, *ignored = NULL, *no_new = NULL;
	void (*old)(int) = signal(SIGPIPE, SIG_IGN);
	g_autofree char *marker = g_build_filename(dir, "procs", NULL);
	struct cop_launch_process p = *process();
	g_autofree char *cwd = g_strdup_printf("cwd %s\n", dir), *procs = NULL;
	sigset_t term, before;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, &before);
	p.cgroup_procs_fd = open(marker, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	text = output_of(shell(STATUS "echo cwd $(readlink /proc/$$/cwd); "
				      "echo core $(ulimit -c); echo pid $$ session "
				      "$(cut -d' ' -f6 /proc/$$/stat)"),
			 &p);
	close(p.cgroup_procs_fd);
	sigprocmask(SIG_SETMASK, &before, NULL);
	signal(SIGPIPE, old);
	blocked = status_line(text, "SigBlk");
	ignored = status_line(text, "SigIgn");
	no_new = status_line(text, "NoNewPrivs");
	assert_string_equal(blocked, "0000000000000000");
	assert_string_equal(ignored, "0000000000000000");
	assert_string_equal(no_new, "1");
	assert_non_null(strstr(text, cwd));
	assert_non_null(strstr(text, "core 0\n"));
	{
		int pid = 0, session = 1;

		assert_int_equal(
			sscanf(strstr(text, "\npid "), " pid %d session %d", &pid, &session), 2);
		assert_int_equal(pid, session);
	}
	assert_true(g_file_get_contents(marker, &procs, NULL, NULL));
	assert_string_equal(procs, "0");
}

/* Catches: a QEMU that keeps root's user, group or supplementary groups. */
static void test_user(void **state)
{
	struct cop_launch_process p = *process();

	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	for (int extra = 0; extra < 2; extra++) {
		g_autofree char *text = NULL, *uid = NULL, *gid = NULL, *groups = NULL;

		p.uid = 65534;
		p.gid = 65533;
		p.extra_gid = extra ? 12345 : (gid_t)-1;
		text = output_of(shell(STATUS), &p);
		uid = status_line(text, "Uid");
		gid = status_line(text, "Gid");
		groups = g_strstrip(status_line(text, "Groups"));
		assert_string_equal(uid, "65534\t65534\t65534\t65534");
		assert_string_equal(gid, "65533\t65533\t65533\t65533");
		assert_string_equal(groups, extra ? "12345" : "");
	}
}

/* Catches: a QEMU that runs though the daemon died before it wrote down its process id. */
static void test_no_go(void **state)
{
	g_autofree char *mark = g_build_filename(dir, "ran", NULL);
	struct cop_launch *launch = shell("echo > ran");
	GError *error = NULL;
	int go_fd = -1;
	pid_t pid = cop_launch_fork(launch, process(), &go_fd, &error);

	expect_no_error(error);
	close(go_fd);
	assert_int_equal(exit_code(pid), 127);
	assert_int_equal(access(mark, F_OK), -1);
	cop_launch_free(launch);
}

/* Catches: a child that is gone already, reported as started; a SIGPIPE that ends the daemon. */
static void test_ended_before_go(void **state)
{
	struct cop_launch *launch = shell("true");
	GError *error = NULL;
	int go_fd = -1;
	pid_t pid = cop_launch_fork(launch, process(), &go_fd, &error);

	expect_no_error(error);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(exit_code(pid), -SIGKILL);
	assert_false(cop_launch_go(go_fd, "/bin/sh", &error));
	expect_error(&error, COP_ERR_INTERNAL, "/bin/sh ended before");
	cop_launch_free(launch);
}

/* Catches: a failed exec, chdir or setuid reported as a start; errno lost on the way. */
static void test_failures(void **state)
{
	g_autofree char *text_file = g_build_filename(dir, "text", NULL);
	g_autofree char *nowhere = g_build_filename(dir, "no", "folder", NULL);
	struct cop_launch_process no_dir = *process(), no_log = *process();
	const struct {
		const char *program;
		const struct cop_launch_process *process;
		int errnum;
	} cases[] = {
		{"/nonexistent/qemu", process(), ENOENT},
		{text_file, process(), EACCES},
		{dir, process(), EACCES},
		{"/bin/sh", &no_dir, ENOENT},
	};
	GError *error = NULL;
	int go_fd = -1;

	no_dir.dir = nowhere;
	no_log.log_path = nowhere;
	write_file(text_file, "no program");
	assert_int_equal(chmod(text_file, 0600), 0);
	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct cop_launch *launch = cop_launch_new(cases[i].program);
		pid_t pid = cop_launch_fork(launch, cases[i].process, &go_fd, &error);

		expect_no_error(error);
		assert_false(cop_launch_go(go_fd, "the program", &error));
		assert_non_null(strstr(error->message, "the program"));
		assert_non_null(strstr(error->message, g_strerror(cases[i].errnum)));
		g_clear_error(&error);
		assert_int_equal(exit_code(pid), 127);
		cop_launch_free(launch);
	}
	{
		struct cop_launch *launch = shell("true");

		assert_int_equal(cop_launch_fork(launch, &no_log, &go_fd, &error), -1);
		expect_error(&error, COP_ERR_NOT_FOUND, nowhere);
		cop_launch_free(launch);
		cop_launch_free(NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot_arguments),
		cmocka_unit_test(test_confinement),
		cmocka_unit_test(test_incoming_arguments),
		cmocka_unit_test(test_variants),
		cmocka_unit_test(test_clone_has_the_same_devices),
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_hostile_texts),
		cmocka_unit_test(test_node_names),
		cmocka_unit_test(test_one_base_for_two_disks),
		cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_many_descriptors),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_process),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_no_go),
		cmocka_unit_test(test_ended_before_go),
		cmocka_unit_test(test_failures),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
