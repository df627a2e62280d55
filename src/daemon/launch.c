/* Starting a QEMU: see launch.h.
 *
 * Order at the start, so that no QEMU is ever unknown: 1. fork; the child waits on a socket. 2. The
 * caller writes the process id to the VM's manifest. 3. cop_launch_go() sends one byte; the child
 * goes on to exec. If the daemon dies before 3, the child dies with it; if it dies
 * after 2, the next daemon finds the process id.
 */
#include "launch.h"
#include "gerror.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct cop_launch *cop_launch_new(const char *program)
{
	struct cop_launch *launch = g_new0(struct cop_launch, 1);

	launch->argv = g_ptr_array_new_with_free_func(g_free);
	launch->env = g_ptr_array_new_with_free_func(g_free);
	launch->nodes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
	launch->fds = g_array_new(FALSE, FALSE, sizeof(int));
	g_ptr_array_add(launch->argv, g_strdup(program));
	g_ptr_array_add(launch->env, g_strdup("PATH=/usr/sbin:/usr/bin:/sbin:/bin"));
	g_ptr_array_add(launch->env, g_strdup("LC_ALL=C"));
	/* One heap instead of one a thread: less private memory a VM. */
	g_ptr_array_add(launch->env, g_strdup("MALLOC_ARENA_MAX=1"));
	return launch;
}

void cop_launch_free(struct cop_launch *launch)
{
	if (!launch)
		return;
	for (guint i = 0; i < launch->fds->len; i++)
		close(g_array_index(launch->fds, int, i));
	g_array_unref(launch->fds);
	g_hash_table_unref(launch->nodes);
	g_ptr_array_unref(launch->argv);
	g_ptr_array_unref(launch->env);
	g_free(launch);
}

void cop_launch_arg(struct cop_launch *launch, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	g_ptr_array_add(launch->argv, g_strdup_vprintf(fmt, args));
	va_end(args);
}

int cop_launch_fd(struct cop_launch *launch, int fd)
{
	g_array_append_val(launch->fds, fd);
	return COP_LAUNCH_FIRST_FD + (int)launch->fds->len - 1;
}

char *cop_launch_node(const struct cop_layer *layer, char kind)
{
	g_autofree char *hash =
		g_compute_checksum_for_string(G_CHECKSUM_SHA256, layer->path, -1);

	return g_strdup_printf("%c%.16s", kind, hash);
}

void cop_launch_disk(struct cop_launch *launch, const struct cop_disk *disk, unsigned index,
		     const int *layer_fds)
{
	g_autofree char *below = NULL;

	for (guint i = 0; i < disk->layers->len; i++) {
		const struct cop_layer *layer = disk->layers->pdata[i];
		gboolean top = i + 1 == disk->layers->len;
		g_autofree char *file = cop_launch_node(layer, 'f');
		g_autofree char *node = cop_launch_node(layer, 'n');
		g_autofree char *backing = below ? g_strdup_printf(",\"backing\":\"%s\"", below)
						 : g_strdup(layer->raw ? "" : ",\"backing\":null");

		/* Two disks may stand on one image: they share its node. */
		if (!g_hash_table_add(launch->nodes, g_strdup(node))) {
			g_free(g_steal_pointer(&below));
			below = g_steal_pointer(&node);
			continue;
		}
		cop_launch_arg(launch, "-add-fd");
		cop_launch_arg(launch, "set=%d,fd=%d", layer_fds[i], layer_fds[i]);
		cop_launch_arg(launch, "-blockdev");
		cop_launch_arg(launch,
			       "{\"driver\":\"file\",\"node-name\":\"%s\",\"filename\":"
			       "\"/dev/fdset/%d\",\"read-only\":%s,\"discard\":\"unmap\"}",
			       file, layer_fds[i], top ? "false" : "true");
		cop_launch_arg(launch, "-blockdev");
		cop_launch_arg(launch,
			       "{\"driver\":\"%s\",\"node-name\":\"%s\",\"file\":\"%s\","
			       "\"read-only\":%s,\"discard\":\"unmap\"%s}",
			       layer->raw ? "raw" : "qcow2", node, file, top ? "false" : "true",
			       backing);
		g_free(g_steal_pointer(&below));
		below = g_steal_pointer(&node);
	}
	cop_launch_arg(launch, "-device");
	cop_launch_arg(launch, "virtio-blk-pci,drive=%s,id=disk%u", below, index);
}

static void add_network(struct cop_launch *launch, const struct cop_machine *machine,
			const struct cop_launch_run *run)
{
	g_autofree char *forward = NULL;

	if (strcmp(machine->network, "none") == 0)
		return;
	if (run->ssh_port)
		forward = g_strdup_printf(",hostfwd=tcp:127.0.0.1:%u-:22", run->ssh_port);
	cop_launch_arg(launch, "-netdev");
	cop_launch_arg(launch, "user,id=net0%s%s",
		       strcmp(machine->network, "isolated") == 0 ? ",restrict=on" : "",
		       forward ?: "");
	cop_launch_arg(launch, "-device");
	cop_launch_arg(launch, "virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:12:34:56,romfile=");
}

void cop_launch_machine(struct cop_launch *launch, const struct cop_machine *machine,
			const struct cop_launch_run *run)
{
	gboolean tcg = strcmp(machine->accel, "tcg") == 0;
	gboolean vga = strcmp(machine->display, "vga") == 0;

	cop_launch_arg(launch, "-name");
	cop_launch_arg(launch, "%s", run->name);
	cop_launch_arg(launch, "-no-user-config");
	cop_launch_arg(launch, "-nodefaults");
	cop_launch_arg(launch, "-sandbox");
	cop_launch_arg(launch, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
			       "resourcecontrol=deny");
	cop_launch_arg(launch, "-machine");
	/* Nothing that no guest of ours needs: each device costs memory and time to start. */
	cop_launch_arg(launch,
		       "%s,memory-backend=ram0,usb=off,sata=off,smbus=off,hpet=off,vmport=off",
		       machine->type);
	cop_launch_arg(launch, "-accel");
	cop_launch_arg(launch, tcg ? "tcg,thread=multi,tb-size=64" : "kvm");
	cop_launch_arg(launch, "-cpu");
	cop_launch_arg(launch, tcg ? "max" : "host");
	cop_launch_arg(launch, "-smp");
	cop_launch_arg(launch, "%u", machine->cpus);
	cop_launch_arg(launch, "-m");
	cop_launch_arg(launch, "size=%" G_GUINT64_FORMAT "b", machine->memory_bytes);
	/* share=on leaves guest RAM out of a saved state (x-ignore-shared). QEMU never touches
	 * the file: the shim maps the RAM image in its place. */
	cop_launch_arg(launch, "-object");
	cop_launch_arg(launch,
		       "memory-backend-file,id=ram0,share=on,prealloc=off,merge=off,dump=off,"
		       "size=%" G_GUINT64_FORMAT ",mem-path=ram",
		       machine->memory_bytes);
	cop_launch_arg(launch, "-display");
	cop_launch_arg(launch, "none");
	if (vga) {
		cop_launch_arg(launch, "-vnc");
		cop_launch_arg(launch, "none");
		cop_launch_arg(launch, "-device");
		cop_launch_arg(launch, "VGA,id=vga0,vgamem_mb=8");
	}
	cop_launch_arg(launch, "-chardev");
	cop_launch_arg(launch, "socket,id=qmp,fd=%d,server=on,wait=off", run->qmp_fd);
	cop_launch_arg(launch, "-mon");
	cop_launch_arg(launch, "chardev=qmp,mode=control");
	cop_launch_arg(launch, "-chardev");
	cop_launch_arg(launch, "socket,id=console,fd=%d,server=on,wait=off", run->console_fd);
	cop_launch_arg(launch, "-serial");
	cop_launch_arg(launch, "chardev:console");
	cop_launch_arg(launch, "-device");
	cop_launch_arg(launch, "virtio-rng-pci,id=rng0");
	/* Pages that the guest's kernel has free go back to the host. Not with the kernel's engine,
	 * where a page given back would show the template's bytes: a guest may count on zeros. */
	if (cop_machine_is_paged(machine)) {
		cop_launch_arg(launch, "-device");
		cop_launch_arg(launch, "virtio-balloon-pci,id=balloon0,free-page-reporting=on");
	}
	add_network(launch, machine, run);
	/* A clone's kernel is in its memory already; a second copy would cost 10 MB each. */
	if (machine->kernel && !run->incoming) {
		cop_launch_arg(launch, "-kernel");
		cop_launch_arg(launch, "kernel");
		if (machine->initrd) {
			cop_launch_arg(launch, "-initrd");
			cop_launch_arg(launch, "initrd");
		}
		cop_launch_arg(launch, "-append");
		cop_launch_arg(launch, "%s", machine->append ?: "");
	} else if (machine->kernel) {
		/* ... so its firmware would find nothing to boot: a reboot ends it. */
		cop_launch_arg(launch, "-action");
		cop_launch_arg(launch, "reboot=shutdown");
	}
	if (run->incoming) {
		cop_launch_arg(launch, "-S");
		cop_launch_arg(launch, "-incoming");
		cop_launch_arg(launch, "defer");
	}
	for (char **arg = machine->extra_args; *arg; arg++)
		cop_launch_arg(launch, "%s", *arg);
}

/* Runs in the child, between fork and exec of a process with threads: system calls only. */
static void child(struct cop_launch *launch, const struct cop_launch_process *process,
		  pid_t daemon_pid, int log_fd, int pair_fd)
{
	static const struct rlimit no_core = {0, 0};
	static const uint64_t default_action[4]; /* the kernel's struct sigaction: SIG_DFL is 0 */
	char **argv = (char **)launch->argv->pdata, **env = (char **)launch->env->pdata;
	guint nr = launch->fds->len;
	/* Sources are first moved to here and above, so that no target overwrites one. */
	int stage = COP_LAUNCH_FIRST_FD + (int)nr;
	int *fds = (int *)launch->fds->data;
	sigset_t none;
	char go;
	int err;

	(void)setsid();
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	/* By system call, as the C library keeps two signals from its callers. */
	for (int sig = 1; sig < NSIG; sig++)
		(void)syscall(SYS_rt_sigaction, sig, &default_action, NULL, sizeof(uint64_t));
	/* While it waits, this child dies with the thread that made it; end of file alone would not
	 * tell, as children that are made at the same time hold each other's sockets. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != daemon_pid ||
	    read(pair_fd, &go, 1) != 1 || prctl(PR_SET_PDEATHSIG, 0) < 0)
		_exit(127);
	if (process->cgroup_procs_fd >= 0 && write(process->cgroup_procs_fd, "0", 1) != 1)
		goto fail;
	pair_fd = fcntl(pair_fd, F_DUPFD_CLOEXEC, stage);
	log_fd = fcntl(log_fd, F_DUPFD_CLOEXEC, stage);
	if (pair_fd < 0 || log_fd < 0)
		goto fail;
	for (guint i = 0; i < nr; i++) {
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, stage);
		if (fds[i] < 0)
			goto fail;
	}
	for (guint i = 0; i < nr; i++) {
		if (dup2(fds[i], COP_LAUNCH_FIRST_FD + (int)i) < 0)
			goto fail;
	}
	if (chdir(process->dir) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
		goto fail;
	close(0);
	if (open("/dev/null", O_RDONLY) != 0)
		goto fail;
	(void)close_range((unsigned)stage, ~0U, CLOSE_RANGE_CLOEXEC);
	(void)setrlimit(RLIMIT_CORE, &no_core);
	if (process->uid != (uid_t)-1) {
		gid_t groups[1] = {process->extra_gid};
		int nr_groups = process->extra_gid != (gid_t)-1 ? 1 : 0;

		/* Raw calls: glibc's wrappers would signal threads that are not here. */
		if (syscall(SYS_setgroups, nr_groups, groups) < 0 ||
		    syscall(SYS_setresgid, process->gid, process->gid, process->gid) < 0 ||
		    syscall(SYS_setresuid, process->uid, process->uid, process->uid) < 0)
			goto fail;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		goto fail;
	execve(argv[0], argv, env);
fail:
	err = errno;
	(void)!write(pair_fd, &err, sizeof(err)); /* nobody to tell when this fails */
	_exit(127);
}

pid_t cop_launch_fork(struct cop_launch *launch, const struct cop_launch_process *process,
		      int *ret_go_fd, GError **error)
{
	pid_t pid, daemon_pid = getpid();
	int pair[2], log_fd;

	log_fd = cop_file_open(process->log_path, O_WRONLY | O_CREAT | O_APPEND, 0600, error);
	if (log_fd < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		cop_gerror_errno(error, errno, "socketpair");
		close(log_fd);
		return -1;
	}
	g_ptr_array_add(launch->argv, NULL);
	g_ptr_array_add(launch->env, NULL);
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		child(launch, process, daemon_pid, log_fd, pair[1]);
	}
	if (pid < 0)
		cop_gerror_errno(error, errno, "cannot start a process");
	close(pair[1]);
	close(log_fd);
	if (pid < 0)
		close(pair[0]);
	else
		*ret_go_fd = pair[0];
	return pid;
}

gboolean cop_launch_go(int go_fd, const char *program, GError **error)
{
	int err = 0;
	ssize_t n;

	if (send(go_fd, "g", 1, MSG_NOSIGNAL) != 1) {
		close(go_fd);
		return cop_gerror_set(error, COP_ERR_INTERNAL, "%s ended before it was started",
				      program);
	}
	do {
		n = read(go_fd, &err, sizeof(err)); /* end of file at exec */
	} while (n < 0 && errno == EINTR);
	close(go_fd);
	if (n == sizeof(err))
		return cop_gerror_errno(error, err, "cannot run %s", program);
	return TRUE;
}
