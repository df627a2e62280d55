/* SPDX-License-Identifier: MIT */
/*
 * accel.c: run the probe guest and read what it reports.
 *
 * Data: the guest's letters (src/guest/probe.S) come from QEMU's debugcon over a pipe; each begins
 *a step.
 *
 * States of a run, by what happens:
 *	starting --first letter--> stepping --"Z" and exit status PASS--> passed
 *	starting --QEMU ends, or 5 s--> no start
 *	stepping --"?" or "!"--> wrong result
 *	stepping --QEMU ends, or says that KVM gave up--> died
 *	stepping --limit--> too slow
 *
 * Threads: none of its own. The child runs only system calls between fork and exec.
 *
 * On failure: QEMU is killed and reaped on every way out (cleanup attribute). It is also killed by
 *the kernel when the thread that started it ends.
 */
#include "accel.h"
#include "base/cleanup.h"
#include "gerror.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define START_LIMIT_MS 5000
#define KVM_LIMIT_MS   3000
#define ROM_BYTES      65536
#define RESET_VECTOR   0xfff0
#define ROM_FD	       3
#define PASS_STATUS    (0x2a << 1 | 1) /* what isa-debug-exit makes of PASS in probe.S */
#define NR_TIMED       30000000	       /* instructions of the last step */

extern const unsigned char cop_probe_guest[], cop_probe_guest_end[];

static const struct {
	char letter;
	const char *name;
} steps[] = {
	[COP_ACCEL_NOTHING] = {0, "start"},
	[COP_ACCEL_REAL_MODE] = {'A', "real mode"},
	[COP_ACCEL_PROTECTED_MODE] = {'B', "protected mode"},
	[COP_ACCEL_LONG_MODE] = {'C', "long mode"},
	[COP_ACCEL_INT3] = {'D', "int3"},
	[COP_ACCEL_PAGE_FAULT] = {'E', "page fault"},
	[COP_ACCEL_CMPXCHG16B] = {'F', "cmpxchg16b"},
	[COP_ACCEL_XSAVE] = {'G', "xsave and xrstor"},
	[COP_ACCEL_MSR] = {'H', "wrmsr and swapgs"},
	[COP_ACCEL_USER_MODE] = {'I', "user mode and back"},
	[COP_ACCEL_SPEED] = {'J', "30 million instructions in kernel mode"},
	[COP_ACCEL_DONE] = {'Z', "end"},
};

const char *cop_accel_step_name(enum cop_accel_step step)
{
	return (unsigned)step < G_N_ELEMENTS(steps) ? steps[step].name : "?";
}

/* A running QEMU. */
struct probe {
	pid_t pid;	/* 0 when there is none */
	int out, err;	/* pipes from it; -1 when it closed them */
	char report[8]; /* from the first unknown character on: "?" or "!xx" */
	size_t nr_report;
	char text[2048]; /* start of the error output */
	size_t nr_text;
	gint64 speed_start_us;
};

/* Kill and reap. Returns the status, or -1 when there was no process. */
static int probe_end(struct probe *p)
{
	int status = -1;

	if (p->pid > 0) {
		(void)kill(p->pid, SIGKILL); /* it is ours and not yet reaped, so it exists */
		while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	p->pid = 0;
	return status;
}

static void probe_done(struct probe *p)
{
	(void)probe_end(p);
	cop_close(&p->out);
	cop_close(&p->err);
}

/* The ROM that QEMU runs in place of a firmware, as an anonymous file. */
static int make_rom(void)
{
	static const unsigned char jump[] = {0xe9, 0x0d, 0x00}; /* from the reset vector to 0 */
	cop_auto_close int fd = memfd_create("coppice-probe", MFD_CLOEXEC);
	size_t guest_bytes = (size_t)(cop_probe_guest_end - cop_probe_guest);

	g_assert(guest_bytes < RESET_VECTOR);
	if (fd < 0 || ftruncate(fd, ROM_BYTES) < 0 ||
	    pwrite(fd, cop_probe_guest, guest_bytes, 0) != (ssize_t)guest_bytes ||
	    pwrite(fd, jump, sizeof(jump), RESET_VECTOR) != (ssize_t)sizeof(jump))
		return -1;
	return cop_steal_fd(&fd);
}

/* Become @uid and @gid with at most the one further group. In a child only: raw calls, as libc's
 * wrappers would want to signal threads that are not here. */
static gboolean become(uid_t uid, gid_t gid, gid_t extra_gid)
{
	gid_t groups[1] = {extra_gid};

	if (gid != (gid_t)-1 &&
	    (syscall(SYS_setgroups, extra_gid != (gid_t)-1 ? 1 : 0, groups) < 0 ||
	     syscall(SYS_setresgid, gid, gid, gid) < 0))
		return FALSE;
	return uid == (uid_t)-1 || syscall(SYS_setresuid, uid, uid, uid) == 0;
}

/* The group that a VM's user gets for KVM: the device's, unless that is root's. */
static gid_t kvm_gid(void)
{
	struct stat st;

	return stat("/dev/kvm", &st) == 0 && st.st_gid != 0 ? st.st_gid : (gid_t)-1;
}

/* After fork: system calls only. Writes errno to @fail_fd when it can't go on. */
static void G_GNUC_NORETURN child(char *const argv[], pid_t parent, uid_t uid, gid_t gid,
				  gid_t extra_gid, int rom, int out, int err, int fail_fd)
{
	static const struct rlimit no_core = {0, 0};
	sigset_t none;
	int null, why;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL); /* cannot fail */
	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);	/* fails for those that are always so */
	(void)setsid();				/* a terminal's Ctrl-C is the caller's business */
	(void)setrlimit(RLIMIT_CORE, &no_core); /* QEMU aborts on some hosts: no litter */

	/* Out of the way of 0 to 3. */
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	null = fcntl(null, F_DUPFD_CLOEXEC, 100);
	rom = fcntl(rom, F_DUPFD_CLOEXEC, 100);
	out = fcntl(out, F_DUPFD_CLOEXEC, 100);
	err = fcntl(err, F_DUPFD_CLOEXEC, 100);
	fail_fd = fcntl(fail_fd, F_DUPFD_CLOEXEC, 100);
	if (null >= 0 && rom >= 0 && fail_fd >= 0 && dup2(null, 0) == 0 && dup2(out, 1) == 1 &&
	    dup2(err, 2) == 2 && dup2(rom, ROM_FD) == ROM_FD &&
	    close_range(ROM_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC) == 0 && become(uid, gid, extra_gid) &&
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	    prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && /* after become(), which clears it */
	    getppid() == parent)
		execv(argv[0], argv);
	why = errno;
	(void)!write(fail_fd, &why, sizeof(why)); /* nobody to tell when this fails */
	_exit(127);
}

/* Start QEMU; FALSE when it can't be executed. */
static gboolean probe_start(struct probe *p, const char *qemu, char *const argv[], uid_t uid,
			    gid_t gid, GError **error)
{
	cop_auto_close int rom = make_rom(), out = -1, err = -1, fail_read = -1, fail_write = -1;
	gid_t extra_gid = kvm_gid();
	int pipes[3][2], why = 0;
	pid_t parent = getpid();
	ssize_t n;

	if (rom < 0)
		return cop_gerror_errno(error, errno, "cannot make the probe guest's ROM");
	if (pipe2(pipes[0], O_CLOEXEC) < 0)
		return cop_gerror_errno(error, errno, "cannot make a pipe");
	p->out = pipes[0][0];
	out = pipes[0][1];
	if (pipe2(pipes[1], O_CLOEXEC) < 0)
		return cop_gerror_errno(error, errno, "cannot make a pipe");
	p->err = pipes[1][0];
	err = pipes[1][1];
	if (pipe2(pipes[2], O_CLOEXEC) < 0)
		return cop_gerror_errno(error, errno, "cannot make a pipe");
	fail_read = pipes[2][0];
	fail_write = pipes[2][1];

	p->pid = fork();
	if (p->pid < 0)
		return cop_gerror_errno(error, errno, "cannot start a process for %s", qemu);
	if (p->pid == 0)
		child(argv, parent, uid, gid, extra_gid, rom, out, err, fail_write);
	cop_close(&fail_write);
	do {
		n = read(fail_read, &why, sizeof(why)); /* ends with exec */
	} while (n < 0 && errno == EINTR);
	if (n != 0)
		return cop_gerror_set(
			error, COP_ERR_UNSUPPORTED,
			"cannot run %s: %s\ninstall qemu-system-x86, or name another QEMU "
			"with --qemu",
			argv[0], n == sizeof(why) ? g_strerror(why) : "unknown reason");
	return TRUE;
}

/* One character from the guest. */
static void take_letter(struct probe *p, struct cop_accel_run *run, char c, gint64 now_us)
{
	enum cop_accel_step next = run->reached + 1;

	if (p->nr_report == 0 && next < G_N_ELEMENTS(steps) && c == steps[next].letter) {
		run->reached = next;
		if (next == COP_ACCEL_SPEED)
			p->speed_start_us = now_us;
		else if (next == COP_ACCEL_DONE)
			run->mips = NR_TIMED / (double)MAX(now_us - p->speed_start_us, 1);
	} else if (p->nr_report < sizeof(p->report) - 1) {
		p->report[p->nr_report++] = c;
	}
}

/* Read what there is on *@fd; closes it at its end. */
static void drain(struct probe *p, struct cop_accel_run *run, int *fd, gint64 now_us)
{
	char buffer[512];
	ssize_t n = read(*fd, buffer, sizeof(buffer));

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		cop_close(fd);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (fd == &p->out)
			take_letter(p, run, buffer[i], now_us);
		else if (p->nr_text < sizeof(p->text) - 1)
			p->text[p->nr_text++] = buffer[i];
	}
}

/* QEMU stays there, stopped, when KVM gives up. */
static gboolean gave_up(const struct probe *p)
{
	return strstr(p->text, "KVM internal error") || strstr(p->text, "kvm run failed");
}

/* Follow QEMU until it ends, gives up or its time is up. TRUE when its time was up. */
static gboolean follow(struct probe *p, struct cop_accel_run *run, gint64 start_us,
		       unsigned int limit_ms)
{
	gint64 deadline_us = start_us + START_LIMIT_MS * G_TIME_SPAN_MILLISECOND;

	while (p->out >= 0 || p->err >= 0) {
		struct pollfd polls[2] = {
			{.fd = p->out, .events = POLLIN},
			{.fd = p->err, .events = POLLIN},
		};
		gint64 now_us = g_get_monotonic_time(), left_us = deadline_us - now_us;
		gboolean ran = run->reached != COP_ACCEL_NOTHING;

		if (left_us <= 0)
			return TRUE;
		if (poll(polls, 2, (int)(left_us / G_TIME_SPAN_MILLISECOND) + 1) < 0 &&
		    errno != EINTR)
			return FALSE;
		now_us = g_get_monotonic_time();
		if (polls[0].revents)
			drain(p, run, &p->out, now_us);
		if (polls[1].revents)
			drain(p, run, &p->err, now_us);
		if (!ran && run->reached != COP_ACCEL_NOTHING)
			deadline_us = now_us + limit_ms * G_TIME_SPAN_MILLISECOND;
		if (gave_up(p))
			return FALSE;
	}
	return FALSE;
}

/* Like waitpid(), but not longer than 1 s: the pipes are closed, so QEMU is all but gone. */
static int await_exit(struct probe *p)
{
	for (int i = 0; i < 100; i++) {
		int status;

		if (waitpid(p->pid, &status, WNOHANG) == p->pid) {
			p->pid = 0;
			return status;
		}
		g_usleep(10000);
	}
	return probe_end(p);
}

static enum cop_accel_end judge(const struct probe *p, const struct cop_accel_run *run, int status,
				gboolean timed_out)
{
	if (run->reached == COP_ACCEL_NOTHING)
		return COP_ACCEL_NO_START;
	if (p->nr_report > 0)
		return COP_ACCEL_WRONG_RESULT;
	if (timed_out)
		return COP_ACCEL_TOO_SLOW;
	if (run->reached == COP_ACCEL_DONE && WIFEXITED(status) &&
	    WEXITSTATUS(status) == PASS_STATUS)
		return COP_ACCEL_PASSED;
	return COP_ACCEL_DIED;
}

gboolean cop_accel_run_probe(const char *qemu, const char *accel, const char *cpu, uid_t uid,
			     gid_t gid, unsigned int limit_ms, struct cop_accel_run *ret_run,
			     GError **error)
{
	g_autofree char *path = g_find_program_in_path(qemu);
	const char *argv[] = {
		path,
		"-accel",
		accel,
		"-cpu",
		cpu,
		"-machine",
		"pc,usb=off,vmport=off",
		"-m",
		"16M",
		"-nodefaults",
		"-no-user-config",
		"-no-reboot",
		"-display",
		"none",
		"-bios",
		"/proc/self/fd/" G_STRINGIFY(ROM_FD),
		"-device",
		"isa-debug-exit,iobase=0xf4,iosize=1",
		"-debugcon",
		"stdio",
		"-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		NULL,
	};
	__attribute__((cleanup(probe_done))) struct probe p = {.out = -1, .err = -1};
	struct cop_accel_run run = {.exception = -1};
	gint64 start_us = g_get_monotonic_time();
	gboolean timed_out;
	unsigned int exception;
	int status;

	if (!path)
		return cop_gerror_set(error, COP_ERR_UNSUPPORTED,
				      "there is no program %s\ninstall qemu-system-x86, or name "
				      "another QEMU with --qemu",
				      qemu);
	if (!probe_start(&p, qemu, (char *const *)argv, uid, gid, error))
		return FALSE;
	timed_out = follow(&p, &run, start_us, limit_ms);
	status = timed_out || gave_up(&p) ? probe_end(&p) : await_exit(&p);
	run.end = judge(&p, &run, status, timed_out);
	run.time_ms = (unsigned int)((g_get_monotonic_time() - start_us) / G_TIME_SPAN_MILLISECOND);
	if (sscanf(p.report, "!%2x", &exception) == 1)
		run.exception = (int)exception;
	g_strlcpy(run.said, p.text, MIN(sizeof(run.said), strcspn(p.text, "\r\n") + 1));
	*ret_run = run;
	return TRUE;
}

/* Can @uid and @gid, with KVM's group, open the device? Asked in a child, which becomes that user.
 */
static gboolean opens_as(uid_t uid, gid_t gid)
{
	gid_t extra_gid = kvm_gid();
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int fd = become(uid, gid, extra_gid) ? open("/dev/kvm", O_RDWR | O_CLOEXEC) : -1;

		_exit(fd >= 0 ? 0 : 1);
	}
	if (pid < 0)
		return FALSE;
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return FALSE;
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

gboolean cop_accel_probe(const char *qemu, uid_t uid, gid_t gid,
			 struct cop_accel_report *ret_report, GError **error)
{
	struct cop_accel_report report = {.vm_uid = uid};
	g_autofree char *path = g_find_program_in_path(qemu);
	struct stat st;

	/* Where there is no KVM to try, a missing QEMU would go unnoticed. */
	if (!path)
		return cop_gerror_set(error, COP_ERR_UNSUPPORTED,
				      "there is no program %s\ninstall qemu-system-x86, or name "
				      "another QEMU with --qemu",
				      qemu);
	if (stat("/dev/kvm", &st) == 0 && S_ISCHR(st.st_mode)) {
		report.device_present = TRUE;
		report.device_mode = st.st_mode & 07777;
		report.device_uid = st.st_uid;
		report.device_gid = st.st_gid;
		report.device_opens = opens_as((uid_t)-1, (gid_t)-1);
		report.device_opens_as_vm = opens_as(uid, gid);
	}
	if (report.device_opens || report.device_opens_as_vm) {
		/* If only this process may, try as such: whoever is about to change the permissions
		 * should know whether it is worth it. */
		gboolean as_vm = report.device_opens_as_vm;
		uid_t run_uid = as_vm ? uid : (uid_t)-1;
		gid_t run_gid = as_vm ? gid : (gid_t)-1;

		if (!cop_accel_run_probe(path, "kvm", "host", run_uid, run_gid, KVM_LIMIT_MS,
					 &report.run, error))
			return FALSE;
		/* Some nested KVMs offer a register that they then refuse. It says more about them
		 * what the guest can do without. */
		if (report.run.end == COP_ACCEL_NO_START &&
		    !cop_accel_run_probe(path, "kvm", "host,arch-capabilities=off", run_uid,
					 run_gid, KVM_LIMIT_MS, &report.spare, error))
			return FALSE;
	}
	cop_accel_conclude(&report);
	*ret_report = report;
	return TRUE;
}

/* What became of @run, as the end of a sentence whose subject is the probe guest. */
static char *tell_run(const struct cop_accel_run *run)
{
	const char *step = cop_accel_step_name(run->reached);
	g_autofree char *said =
		run->said[0] ? g_strdup_printf(" (QEMU: %s)", run->said) : g_strdup("");

	switch (run->end) {
	case COP_ACCEL_PASSED:
		return g_strdup_printf("ran to its end in %u ms, %.0f million kernel-mode "
				       "instructions a second",
				       run->time_ms, run->mips);
	case COP_ACCEL_WRONG_RESULT:
		if (run->exception >= 0)
			return g_strdup_printf("got an unexpected exception %d at \"%s\"",
					       run->exception, step);
		return g_strdup_printf("got a wrong result at \"%s\"", step);
	case COP_ACCEL_DIED:
		return g_strdup_printf("stopped at \"%s\" after %u ms%s", step, run->time_ms, said);
	case COP_ACCEL_TOO_SLOW:
		return g_strdup_printf("was still at \"%s\" after %u ms%s", step, run->time_ms,
				       said);
	case COP_ACCEL_NO_START:
		return g_strdup_printf("did not start%s", said);
	case COP_ACCEL_NOT_RUN:
		break;
	}
	return g_strdup("was not tried");
}

#define TCG_IS_USED "TCG is used meanwhile, which runs Linux about 10 to 30 times slower"

/* Which command would let the VM's user open the device? */
static char *tell_permission(const struct cop_accel_report *report)
{
	if (report->device_gid == 0)
		return g_strdup(
			"give it a group of its own (groupadd --system --force kvm; chgrp kvm "
			"/dev/kvm; chmod 660 /dev/kvm; a udev rule makes that last)");
	if ((report->device_mode & 0060) != 0060)
		return g_strdup("let its group use it (chmod 660 /dev/kvm; a udev rule makes that "
				"last)");
	return g_strdup("run coppiced as root, or add its user to the group of /dev/kvm");
}

void cop_accel_conclude(struct cop_accel_report *report)
{
	gboolean passed = report->run.end == COP_ACCEL_PASSED;
	gboolean retried = report->spare.end != COP_ACCEL_NOT_RUN;
	g_autofree char *run = tell_run(&report->run);
	g_autofree char *spare = tell_run(&report->spare);
	g_autofree char *permission = tell_permission(report);
	g_autoptr(GString) found = g_string_new(NULL);
	g_autoptr(GString) advice = g_string_new(NULL);

	report->accel = passed && report->device_opens_as_vm ? "kvm" : "tcg";
	if (!report->device_present) {
		g_string_append(found, "there is no /dev/kvm");
		g_string_append(
			advice,
			"switch on VT-x or AMD-V in the firmware (in a virtual machine: nested "
			"virtualization) and load kvm_intel or kvm_amd; " TCG_IS_USED);
	} else if (!report->device_opens && !report->device_opens_as_vm) {
		g_string_append_printf(
			found,
			"/dev/kvm is there, but does not open (mode %04o, user %u, group %u)",
			(unsigned)report->device_mode, report->device_uid, report->device_gid);
		g_string_append_printf(advice, "%s; " TCG_IS_USED, permission);
	} else {
		g_string_append_printf(found, "/dev/kvm is there, %s the probe guest %s",
				       passed ? "and" : "but", run);
		if (retried)
			g_string_append_printf(found, "; without arch-capabilities it %s", spare);
		if (!report->device_opens_as_vm)
			g_string_append_printf(
				found,
				"; and the user of VMs (%u) may not open it (mode %04o, user %u, "
				"group %u)",
				report->vm_uid, (unsigned)report->device_mode, report->device_uid,
				report->device_gid);
		if (!passed)
			g_string_append(
				advice,
				"this KVM can't run an operating system's kernel: if this host is "
				"itself a virtual machine, ask for full nested virtualization, "
				"else "
				"update its kernel; " TCG_IS_USED);
		else if (!report->device_opens_as_vm)
			g_string_append_printf(advice, "%s; " TCG_IS_USED, permission);
	}
	g_free(report->found);
	g_free(report->advice);
	report->found = g_string_free(g_steal_pointer(&found), FALSE);
	report->advice = g_string_free(g_steal_pointer(&advice), FALSE);
}

void cop_accel_report_clear(struct cop_accel_report *report)
{
	if (!report)
		return;
	g_free(report->found);
	g_free(report->advice);
	memset(report, 0, sizeof(*report));
}
