/* The port's bytes: found, opened, read, written. See agent.h.
 *
 * A virtio port says "hung up" as long as the host is not connected, so it is watched edge-triggered:
 * the driver wakes who watches when the host comes or goes. As a safety it is looked at now and then.
 * The session outlives a host that goes; the next one's HELLO ends it.
 */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_US 50000
#define SELDOM_US 1000000 /* without success: an idle guest should be idle */
#define RARELY_US 15000000
#define LOOK_US 30000000
#define READ_BYTES 32768
#define READS_A_ROUND 16
#define ZEROS_BYTES COP_AGENT_FRAME_MAX

static void lost(int error)
{
	agent_watch_close(&agent.port);
	agent_port_drop();
	agent.port_retry_us = agent_now_us() + RETRY_US;
	if (error)
		agent_log("coppice-agent: the port: %s", strerror(error));
}

static uint32_t queued(void)
{
	return agent.out_len - agent.out_at;
}

static void flush(void)
{
	bool was_full = !agent_port_room(), was_stopped = queued() >= AGENT_OUT_STOP;

	while (agent.port.fd >= 0 && queued()) {
		ssize_t n = write(agent.port.fd, agent.out + agent.out_at, queued());

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			lost(n < 0 && errno != EPIPE ? errno : 0);
			return;
		}
		agent.out_at += (uint32_t)n;
	}
	if (!queued())
		agent.out_at = agent.out_len = 0;
	if (was_full && agent_port_room())
		agent_exec_resume();
	if (was_stopped && queued() < AGENT_OUT_STOP)
		agent.port_retry_us = agent_now_us(); /* read on */
}

/* Bytes from the host; false: the port is gone. */
static bool take(const uint8_t *data, size_t len)
{
	while (len) {
		struct cop_agent_frame f;
		size_t used;
		int r = cop_agent_rx_feed(&agent.rx, data, len, &used, &f);

		data += used;
		len -= used;
		if (r == 1)
			agent_session_frame(&f);
		else if (r < 0)
			agent_session_end("what the host sent is no frame");
	}
	return agent.port.fd >= 0;
}

static void on_port(struct agent_watch *w, uint32_t events)
{
	static uint8_t buf[READ_BYTES];

	for (int i = 0; i < READS_A_ROUND && queued() < AGENT_OUT_STOP; i++) {
		ssize_t n = read(w->fd, buf, sizeof(buf));

		if (n > 0) {
			if (!take(buf, (size_t)n))
				return;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if ((n < 0 && errno != EAGAIN) || (n == 0 && agent.port_is_socket)) {
			lost(n < 0 ? errno : 0);
			return;
		}
		flush();
		return; /* nothing more, or nobody there */
	}
	flush();
	if (queued() < AGENT_OUT_STOP)
		agent.port_retry_us = agent_now_us(); /* more may be there */
}

/* The device of the port with our name; without udev there is no link to it. */
static bool find_port(char *ret, size_t size)
{
	DIR *d = opendir("/sys/class/virtio-ports");
	struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d))) {
		char path[600], name[64] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
		f = fopen(path, "re");
		if (f && fgets(name, sizeof(name), f)) {
			name[strcspn(name, "\n")] = 0;
			found = !strcmp(name, COP_AGENT_PORT);
			snprintf(ret, size, "/dev/%s", e->d_name);
		}
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	return found;
}

/* A character device or, for tests, a socket. */
static int open_path(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct stat st;
	int fd;

	agent.port_is_socket = false;
	if (stat(path, &st) < 0)
		return -1;
	if (!S_ISSOCK(st.st_mode))
		return open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	agent.port_is_socket = true;
	if (strlen(path) >= sizeof(to.sun_path))
		return -1;
	strcpy(to.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

void agent_port_open(void)
{
	static const uint8_t zeros[1024];
	static unsigned tries;
	char path[300];
	int fd = -1;

	if (agent.port_path)
		fd = open_path(agent.port_path);
	else if (find_port(path, sizeof(path)))
		fd = open_path(path);
	if (fd < 0) {
		/* The driver's module may come late; a guest without the port costs nothing. */
		agent.port_retry_us = agent_now_us() + (tries < 100   ? RETRY_US
							: tries < 160 ? SELDOM_US
								      : RARELY_US);
		tries++;
		return;
	}
	tries = 0;
	agent.port = (struct agent_watch){.fd = fd, .fn = on_port};
	agent.port_retry_us = agent_now_us() + LOOK_US;
	cop_agent_rx_init(&agent.rx, true);
	agent_port_drop();
	for (unsigned i = 0; i < ZEROS_BYTES / sizeof(zeros); i++)
		agent_send_bytes(zeros, sizeof(zeros));
	agent_send(cop_agent_put_ready(agent.frame));
	agent_watch_set(&agent.port, EPOLLIN | EPOLLOUT | EPOLLET);
}

void agent_port_tick(int64_t now_us)
{
	if (agent.port.fd >= 0)
		flush();
	if (now_us < agent.port_retry_us)
		return;
	if (agent.port.fd < 0) {
		agent_port_open();
	} else {
		agent.port_retry_us = now_us + LOOK_US;
		on_port(&agent.port, 0);
	}
}

void agent_port_drop(void)
{
	agent.out_at = agent.out_len = 0;
}

bool agent_port_room(void)
{
	return queued() < AGENT_OUT_DATA;
}

void agent_send_bytes(const void *data, size_t len)
{
	if (agent.port.fd < 0)
		return;
	if (len > AGENT_OUT_MAX - agent.out_len && agent.out_at) {
		memmove(agent.out, agent.out + agent.out_at, queued());
		agent.out_len -= agent.out_at;
		agent.out_at = 0;
	}
	if (len > AGENT_OUT_MAX - agent.out_len) {
		/* Not to be: nothing is read from the host long before. */
		agent_log("coppice-agent: a message to the host is lost");
		return;
	}
	memcpy(agent.out + agent.out_len, data, len);
	agent.out_len += (uint32_t)len;
}

void agent_send(ssize_t len)
{
	if (len < 0)
		agent_log("coppice-agent: a message can't be sent: %s", strerror((int)-len));
	else
		agent_send_bytes(agent.frame, (size_t)len);
}
