/* coppice-show TEXT: put TEXT in large letters on the desktop and make it the host name.
 *
 * Returns once the text is on the screen. The window is coppice-show-window's and stays.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "show.h"

static int fail(const char *what, const char *advice)
{
	fprintf(stderr, "coppice-show: %s: %s; %s\n", what, strerror(errno), advice);
	return 1;
}

/* Turns any text into a valid host name: letters, digits and inner hyphens. */
static void to_hostname(const char *text, char *name, size_t size)
{
	size_t n = 0;

	for (; *text && n + 1 < size; text++) {
		if (isalnum((unsigned char)*text))
			name[n++] = *text;
		else if (n && name[n - 1] != '-')
			name[n++] = '-';
	}
	while (n && name[n - 1] == '-')
		n--;
	name[n] = 0;
}

static int set_hostname(const char *text)
{
	char name[64];
	FILE *file;

	to_hostname(text, name, sizeof(name));
	if (!name[0])
		return 0;
	if (sethostname(name, strlen(name)) < 0)
		return fail("set the host name", "run it as root");
	file = fopen("/etc/hostname", "w");
	if (!file)
		return fail("write /etc/hostname", "is the disk writable?");
	fprintf(file, "%s\n", name);
	return fclose(file) ? fail("write /etc/hostname", "is the disk full?") : 0;
}

int main(int argc, char **argv)
{
	static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SHOW_SOCKET };
	char answer;
	int fd;

	if (argc != 2 || !argv[1][0] || strlen(argv[1]) > SHOW_TEXT_MAX_BYTES) {
		fprintf(stderr, "usage: coppice-show TEXT (at most %d bytes)\n", SHOW_TEXT_MAX_BYTES);
		return 2;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
	    send(fd, argv[1], strlen(argv[1]), MSG_NOSIGNAL) < 0)
		return fail("reach the window at " SHOW_SOCKET, "wait until the desktop is ready");
	if (set_hostname(argv[1]))
		return 1;
	if (recv(fd, &answer, 1, 0) != 1)
		return fail("wait for the window", "see journalctl -u coppice-desktop");
	return 0;
}
