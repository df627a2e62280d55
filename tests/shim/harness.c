/* SPDX-License-Identifier: MIT */
/* harness.c: start a program with the shim in it, as the daemon would. */
#include "harness.h"
#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/close_range.h>
#include <poll.h>

#ifdef __SANITIZE_ADDRESS__
#define BEFORE_SHIM "libasan.so.8:" /* must come first, and does its own checks then */
#else
#define BEFORE_SHIM ""
#endif

const char *need_env(const char *name)
{
	const char *value = getenv(name);

	if (!value)
		fail_msg("%s is not set: run this through meson test", name);
	return value;
}

unsigned char pattern(size_t at)
{
	return at % PAGE < 64 ? 0 : (unsigned char)(at / PAGE * 7 + at * 13 + 1);
}

int make_ram(size_t bytes)
{
	int fd = memfd_create("coppice-test-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	unsigned char *p;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	for (size_t i = 0; i < bytes; i++)
		p[i] = pattern(i);
	assert_int_equal(munmap(p, bytes), 0);
	return fd;
}

void punch_page(int fd, size_t gfn)
{
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)(gfn * PAGE), PAGE),
			 0);
}

bool is_hole(int fd, size_t gfn)
{
	off_t at = lseek(fd, (off_t)(gfn * PAGE), SEEK_DATA);

	return at < 0 || (size_t)at >= (gfn + 1) * PAGE;
}

void need_uffd(enum uffd kind)
{
	int fd;

	if (kind == UFFD_DEVICE)
		fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		print_message("no userfaultfd here: %s\n", strerror(errno));
		skip();
	}
	close(fd);
}

unsigned char file_byte(int fd, size_t at)
{
	unsigned char byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	return byte;
}

/* What a failed test leaves behind: it jumps out without rig_done(). */
static pid_t leftover_pid;
static char leftover_dir[64];

int rig_teardown(void **state)
{
	static const char *const names[] = {"control", "dummy"};
	char path[128];

	if (leftover_pid > 0) {
		kill(leftover_pid, SIGKILL);
		waitpid(leftover_pid, NULL, 0);
	}
	leftover_pid = 0;
	for (size_t i = 0; *leftover_dir && i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", leftover_dir, names[i]);
		unlink(path);
	}
	if (*leftover_dir)
		rmdir(leftover_dir);
	*leftover_dir = '\0';
	return 0;
}

void rig_init(struct rig *rig, const struct rig_options *options)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	memset(rig, 0, sizeof(*rig));
	rig->ram_bytes = options->ram_bytes ? options->ram_bytes : RAM_BYTES;
	strcpy(rig->dir, "/tmp/coppice-shim-XXXXXX");
	assert_non_null(mkdtemp(rig->dir));
	strcpy(leftover_dir, rig->dir);
	assert_int_equal(chmod(rig->dir, 0755), 0);
	snprintf(rig->socket, sizeof(rig->socket), "%s/control", rig->dir);
	snprintf(rig->dummy, sizeof(rig->dummy), "%s/dummy", rig->dir);

	rig->dummy_fd = open(rig->dummy, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(rig->dummy_fd >= 0);
	assert_int_equal(ftruncate(rig->dummy_fd, (off_t)rig->ram_bytes), 0);
	if (options->uid)
		assert_int_equal(fchown(rig->dummy_fd, options->uid, options->uid), 0);

	rig->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_true(rig->listen_fd >= 0);
	strcpy(sa.sun_path, rig->socket);
	assert_int_equal(bind(rig->listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(chmod(rig->socket, 0666), 0); /* so that the shim has to refuse */
	assert_int_equal(listen(rig->listen_fd, 8), 0);
	rig->ram_fd = make_ram(options->file_bytes ? options->file_bytes : rig->ram_bytes);
	for (size_t gfn = 0; options->holes && gfn < rig->ram_bytes / PAGE; gfn += 8)
		punch_page(rig->ram_fd, gfn);
}

static void child(struct rig *rig, const struct rig_options *options, char *const argv[], int in,
		  int out)
{
	char variable[256], preload[512], path[32];
	bool shared = !strcmp(options->mode, "shared");
	struct stat st;
	int ram, listen_fd, uffd = -1;

	if (in >= 0 && (dup2(in, 0) < 0 || dup2(out, 1) < 0))
		_exit(120);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rig->ram_fd);
	ram = open(path, shared || options->writable ? O_RDWR : O_RDONLY);
	if (options->uffd == UFFD_DEVICE || options->uffd == UFFD_WRONG)
		uffd = open(options->uffd == UFFD_DEVICE ? "/dev/userfaultfd" : "/dev/null",
			    O_RDWR);
	if (fstat(rig->dummy_fd, &st) < 0 || ram < 0)
		_exit(121);
	uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 20);
	/* Out of the way of the final numbers first. */
	ram = fcntl(ram, F_DUPFD_CLOEXEC, 20);
	listen_fd = fcntl(rig->listen_fd, F_DUPFD_CLOEXEC, 20);
	close_range(3, 19, 0);
	close_range(20, ~0u, CLOSE_RANGE_CLOEXEC); /* whatever the test runner left open */
	if (dup2(options->deaf ? ram : listen_fd, 5) < 0 || dup2(ram, 6) < 0)
		_exit(122);
	if (uffd >= 0 && dup2(uffd, 7) < 0)
		_exit(122);
	snprintf(variable, sizeof(variable), "1:listen=5:ram=6:mode=%s:dev=%ju:ino=%ju:size=%zu",
		 options->mode, (uintmax_t)st.st_dev, (uintmax_t)st.st_ino, rig->ram_bytes);
	if (options->allowed_uid)
		sprintf(variable + strlen(variable), ":uid=%u", options->allowed_uid);
	if (options->uffd)
		strcat(variable, options->uffd == UFFD_SYSCALL ? ":uffd=0" : ":uffd=7");
	if (!options->variable)
		setenv("COPPICE_SHIM", variable, 1);
	else if (*options->variable)
		setenv("COPPICE_SHIM", options->variable, 1);
	snprintf(preload, sizeof(preload), BEFORE_SHIM "%s", need_env("SHIM"));
	setenv("LD_PRELOAD", preload, 1);
	setenv("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1", 1); /* of QEMU, at its end */
	if (options->uid &&
	    (setgroups(0, NULL) < 0 || setresgid(options->uid, options->uid, options->uid) < 0 ||
	     setresuid(options->uid, options->uid, options->uid) < 0))
		_exit(123);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* last: a change of user clears it */
	execv(argv[0], argv);
	_exit(124);
}

void rig_start(struct rig *rig, const struct rig_options *options, char *const argv[])
{
	int in[2], out[2];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	fflush(NULL);
	rig->pid = fork();
	assert_true(rig->pid >= 0);
	if (rig->pid == 0)
		child(rig, options, argv, in[0], out[1]);
	leftover_pid = rig->pid;
	close(in[0]);
	close(out[1]);
	rig->to = fdopen(in[1], "w");
	rig->from = fdopen(out[0], "r");
	assert_non_null(rig->to);
	assert_non_null(rig->from);
	/* From here QEMU's copy is the only one, as with the daemon. */
	close(rig->listen_fd);
	rig->listen_fd = -1;
}

void rig_start_victim(struct rig *rig, const struct rig_options *options, const char *program)
{
	char size[32];
	char *argv[] = {(char *)need_env(program), NULL, size, NULL};

	rig_init(rig, options);
	argv[1] = rig->dummy;
	snprintf(size, sizeof(size), "%zu", rig->ram_bytes);
	rig_start(rig, options, argv);
}

static void tell(struct rig *rig, const char *command, va_list ap)
{
	vfprintf(rig->to, command, ap);
	fputc('\n', rig->to);
	fflush(rig->to);
}

void rig_tell(struct rig *rig, const char *command, ...)
{
	va_list ap;

	va_start(ap, command);
	tell(rig, command, ap);
	va_end(ap);
}

static intmax_t answer_to(struct rig *rig, const char *command)
{
	char line[256];
	intmax_t value;

	if (!fgets(line, sizeof(line), rig->from))
		fail_msg("the victim ended at \"%s\" with status %#x", command, rig_wait(rig));
	if (sscanf(line, "ok %jd", &value) == 1)
		return value;
	if (sscanf(line, "err %jd", &value) == 1)
		return -value;
	fail_msg("\"%s\": %s", command, line);
	return 0;
}

intmax_t rig_answer(struct rig *rig)
{
	return answer_to(rig, "what it was told");
}

intmax_t rig_do(struct rig *rig, const char *command, ...)
{
	va_list ap;

	va_start(ap, command);
	tell(rig, command, ap);
	va_end(ap);
	return answer_to(rig, command);
}

int rig_wait(struct rig *rig)
{
	int status = -1;

	if (rig->pid > 0)
		assert_int_equal(waitpid(rig->pid, &status, 0), rig->pid);
	rig->pid = leftover_pid = 0;
	return status;
}

void rig_done(struct rig *rig)
{
	if (rig->pid > 0) {
		kill(rig->pid, SIGKILL);
		rig_wait(rig);
	}
	if (rig->to)
		fclose(rig->to);
	if (rig->from)
		fclose(rig->from);
	if (rig->listen_fd > 0)
		close(rig->listen_fd);
	close(rig->dummy_fd);
	close(rig->ram_fd);
	unlink(rig->socket);
	unlink(rig->dummy);
	rmdir(rig->dir);
}

struct cop_shim_client *connect_client(struct rig *rig)
{
	struct cop_shim_client *client = NULL;
	struct cop_error err = {0};

	assert_done(cop_shim_client_new(rig->socket, PATIENCE_MS, &client, &err), err);
	return client;
}

struct cop_shim_info hello(struct rig *rig)
{
	struct cop_shim_client *client = connect_client(rig);
	struct cop_shim_info info = {0};
	struct cop_error err = {0};

	assert_done(cop_shim_client_hello(client, PATIENCE_MS, &info, &err), err);
	cop_shim_client_free(client);
	return info;
}

int connect_raw(struct rig *rig)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	strcpy(sa.sun_path, rig->socket);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

struct cop_shim_msg receive_raw(int fd)
{
	struct cop_shim_msg msg;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(cop_fd_recv(fd, &msg, sizeof(msg), NULL, 0, NULL, 0), sizeof(msg));
	assert_int_equal(msg.magic, COP_SHIM_MAGIC);
	assert_int_equal(msg.version, COP_SHIM_VERSION);
	return msg;
}

int ask_raw(int fd, const void *data, size_t len, int passed_fd)
{
	assert_int_equal(cop_fd_send(fd, data, len, &passed_fd, passed_fd >= 0, 0), 0);
	return receive_raw(fd).status;
}

bool maps_line(pid_t pid, const char *word1, const char *word2, char *ret_line)
{
	char path[64], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (!found && fgets(line, sizeof(line), f)) {
		found = strstr(line, word1) && strstr(line, word2);
		if (found && ret_line)
			snprintf(ret_line, 256, "%.255s", line);
	}
	fclose(f);
	return found;
}

bool has_vm_flag(pid_t pid, uintmax_t addr, const char *flag)
{
	char path[64], line[512], start[32];
	bool inside = false, found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	snprintf(start, sizeof(start), "%jx-", addr);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, start) == line) {
			inside = true;
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			char word[8];

			snprintf(word, sizeof(word), " %s ", flag);
			found = strstr(line, word);
			break;
		}
	}
	fclose(f);
	assert_true(inside);
	return found;
}

unsigned int nr_mappings(pid_t pid, uintmax_t addr, uintmax_t len)
{
	unsigned int nr = 0;
	uintmax_t start;
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		nr += sscanf(line, "%jx-", &start) == 1 && start >= addr && start - addr < len;
	fclose(f);
	return nr;
}

int nr_open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int nr = 0;

	assert_non_null(d);
	while (readdir(d))
		nr++;
	closedir(d);
	return nr;
}
