/* Sockets: see sockets.h. */
#include "sockets.h"
#include "gerror.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024 /* of clients that come at once, such as exec --all */

static gboolean fill(struct sockaddr_un *addr, const char *path)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (g_strlcpy(addr->sun_path, path, sizeof(addr->sun_path)) < sizeof(addr->sun_path))
		return TRUE;
	errno = ENAMETOOLONG;
	return FALSE;
}

int cop_socket_listen(const char *path, int type, GError **error)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr;

	(void)unlink(path); /* of an earlier run, or nothing */
	if (fd < 0 || !fill(&addr, path) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    chmod(path, 0600) < 0 || listen(fd, BACKLOG) < 0) {
		cop_gerror_errno(error, errno, "cannot listen at %s", path);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

int cop_socket_connect(const char *path, int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), err;
	struct sockaddr_un addr;

	if (fd < 0)
		return -1;
	if (fill(&addr, path) && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

static gboolean port_taken(struct cop_state *state, unsigned port)
{
	GHashTableIter iter;
	struct cop_vm *vm;
	gboolean taken = FALSE;

	g_mutex_lock(&state->lock);
	g_hash_table_iter_init(&iter, state->vms);
	while (g_hash_table_iter_next(&iter, NULL, (void **)&vm))
		taken = taken || vm->ssh_port == port;
	g_mutex_unlock(&state->lock);
	return taken;
}

unsigned cop_socket_free_port(struct cop_state *state, GError **error)
{
	for (int tries = 0; tries < 100; tries++) {
		struct sockaddr_in addr = {.sin_family = AF_INET,
					   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		socklen_t len = sizeof(addr);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		unsigned port = 0;

		if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
		    getsockname(fd, (struct sockaddr *)&addr, &len) == 0)
			port = ntohs(addr.sin_port);
		if (fd >= 0)
			close(fd);
		if (port && !port_taken(state, port))
			return port;
	}
	cop_gerror_set(error, COP_ERR_INTERNAL, "cannot find a free port of 127.0.0.1 for ssh");
	return 0;
}
