/* A clone's steps towards others: network cards, ssh host keys.
 *
 * A card that was up is taken down, gets its MAC and comes up; then whoever asked DHCP for its address is
 * made to ask again, and it is waited for an address. A card that was down only gets its MAC.
 */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 10

struct card {
	char name[IFNAMSIZ];
	unsigned index; /* the kernel's */
	uint8_t mac[6];
	bool taken;
};

static int by_index(const void *a, const void *b)
{
	const struct card *x = a, *y = b;

	return x->index < y->index ? -1 : x->index > y->index;
}

/* Cards that have a device behind them. */
static unsigned find_cards(int fd, struct card cards[COP_AGENT_MAX_NICS])
{
	struct if_nameindex *all = if_nameindex();
	unsigned nr = 0;

	for (struct if_nameindex *i = all; i && i->if_index && nr < COP_AGENT_MAX_NICS; i++) {
		struct ifreq req = {0};
		char path[100];

		snprintf(path, sizeof(path), "/sys/class/net/%s/device", i->if_name);
		snprintf(req.ifr_name, sizeof(req.ifr_name), "%s", i->if_name);
		if (access(path, F_OK) < 0 || ioctl(fd, SIOCGIFHWADDR, &req) < 0 ||
		    req.ifr_hwaddr.sa_family != ARPHRD_ETHER)
			continue;
		cards[nr] = (struct card){.index = i->if_index};
		memcpy(cards[nr].name, req.ifr_name, IFNAMSIZ);
		memcpy(cards[nr].mac, req.ifr_hwaddr.sa_data, 6);
		nr++;
	}
	if (all)
		if_freenameindex(all);
	qsort(cards, nr, sizeof(cards[0]), by_index);
	return nr;
}

static struct card *choose(struct card *cards, unsigned nr, const struct cop_agent_nic *nic)
{
	static const uint8_t zeros[6];

	for (unsigned i = 0; i < nr; i++)
		if (!cards[i].taken && memcmp(nic->old, zeros, 6) &&
		    (!memcmp(cards[i].mac, nic->old, 6) || !memcmp(cards[i].mac, nic->new, 6)))
			return &cards[i];
	if (!memcmp(nic->old, zeros, 6) && nic->index < nr && !cards[nic->index].taken)
		return &cards[nic->index];
	return NULL;
}

static int set_up(int fd, const struct card *card, bool up)
{
	struct ifreq req = {0};

	memcpy(req.ifr_name, card->name, IFNAMSIZ);
	if (ioctl(fd, SIOCGIFFLAGS, &req) < 0)
		return -errno;
	req.ifr_flags = (short)(up ? req.ifr_flags | IFF_UP : req.ifr_flags & ~IFF_UP);
	return ioctl(fd, SIOCSIFFLAGS, &req) < 0 ? -errno : 0;
}

static int change_mac(int fd, const struct card *card, const uint8_t mac[6], bool *ret_was_up)
{
	struct ifreq req = {0};
	int error;

	memcpy(req.ifr_name, card->name, IFNAMSIZ);
	if (ioctl(fd, SIOCGIFFLAGS, &req) < 0)
		return -errno;
	*ret_was_up = req.ifr_flags & IFF_UP;
	if (*ret_was_up)
		(void)set_up(fd, card, false); /* some change it while they are up */
	memset(&req.ifr_hwaddr, 0, sizeof(req.ifr_hwaddr));
	req.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(req.ifr_hwaddr.sa_data, mac, 6);
	error = ioctl(fd, SIOCSIFHWADDR, &req) < 0 ? -errno : 0;
	if (*ret_was_up && !error)
		error = set_up(fd, card, true);
	else if (*ret_was_up)
		(void)set_up(fd, card, true); /* the first error counts */
	return error;
}

static bool has_address(const char *name)
{
	struct ifaddrs *all = NULL;
	bool found = false;

	if (getifaddrs(&all) < 0)
		return false;
	for (struct ifaddrs *i = all; i && !found; i = i->ifa_next)
		if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && !strcmp(i->ifa_name, name))
			found = true;
	freeifaddrs(all);
	return found;
}

/* Ends the DHCP client whose pid stands in a file. */
static bool end_client(const char *fmt, const char *card)
{
	char path[128], text[32] = "";
	int fd, pid;

	snprintf(path, sizeof(path), fmt, card);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) > 0 && (pid = atoi(text)) > 1)
		(void)kill(pid, SIGTERM); /* it may be gone */
	close(fd);
	(void)unlink(path);
	return true;
}

static bool mentioned(const char *path, const char *card)
{
	static char text[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	return strstr(text, card) != NULL;
}

/* Whoever asked for this card's address asks again. Returns its name, or NULL: nobody is there. */
static const char *ask_again(const char *card, int64_t timeout_ms, struct agent_ran *ran)
{
	char pid_file[64];

	memset(ran, 0, sizeof(*ran));
	if (access("/run/systemd/netif/state", F_OK) == 0) {
		/* It has seen the link go and come, and asks by itself; this makes it sure. */
		const char *argv[] = {"networkctl", "reconfigure", card, NULL};

		agent_run(argv, NULL, timeout_ms, ran);
		memset(ran, 0, sizeof(*ran));
		return "systemd-networkd";
	}
	if (access("/run/NetworkManager", F_OK) == 0 && agent_have("nmcli")) {
		const char *argv[] = {"nmcli", "device", "reapply", card, NULL};

		agent_run(argv, NULL, timeout_ms, ran);
		return "NetworkManager";
	}
	if (agent_have("ifup") && mentioned("/etc/network/interfaces", card)) {
		const char *down[] = {"ifdown", "--force", card, NULL};
		const char *up[] = {"ifup", card, NULL};

		agent_run(down, NULL, timeout_ms, ran);
		agent_run(up, NULL, timeout_ms, ran);
		return "ifup";
	}
	if (end_client("/run/dhclient.%s.pid", card) || end_client("/run/dhclient.pid", card)) {
		const char *argv[] = {"dhclient", "-1", "-pf", pid_file, card, NULL};

		snprintf(pid_file, sizeof(pid_file), "/run/dhclient.%s.pid", card);
		agent_run(argv, NULL, timeout_ms, ran);
		return "dhclient";
	}
	if (agent_have("udhcpc")) {
		const char *script = access("/etc/udhcpc", X_OK) == 0 ? "/etc/udhcpc"
				     : access("/etc/udhcpc/default.script", X_OK) == 0
					     ? "/etc/udhcpc/default.script"
					     : "/usr/share/udhcpc/default.script";
		const char *argv[] = {"udhcpc", "-i", card, "-n", "-S", "-t", "10", "-T", "1",
				      "-p", pid_file, "-s", script, NULL};
		struct stat st;

		if (stat(script, &st) < 0 || !S_ISREG(st.st_mode))
			argv[11] = NULL; /* its own default */
		(void)end_client("/run/udhcpc.%s.pid", card); /* none may run */
		snprintf(pid_file, sizeof(pid_file), "/run/udhcpc.%s.pid", card);
		agent_run(argv, NULL, timeout_ms, ran);
		return "udhcpc";
	}
	return NULL;
}

static void one_card(struct agent_report *r, int fd, struct card *card, const uint8_t mac[6],
		     int64_t end_us)
{
	static struct agent_ran ran;
	bool was_up = false, had = has_address(card->name);
	int error = change_mac(fd, card, mac, &was_up);
	char text[32];
	const char *who;

	card->taken = true;
	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		 mac[3], mac[4], mac[5]);
	if (error) {
		agent_report(r, "network", COP_AGENT_FAILED, "%s: %s: %s", card->name, text,
			     strerror(-error));
		return;
	}
	if (!was_up) {
		agent_report(r, "network", COP_AGENT_DONE, "%s: %s, down", card->name, text);
		return;
	}
	who = ask_again(card->name, (end_us - agent_now_us()) / 1000 + 1, &ran);
	if (!who) {
		agent_report(r, "network", COP_AGENT_DONE, "%s: %s, no DHCP client", card->name,
			     text);
		return;
	}
	if (!ran.timed_out && !ran.error && !agent_run_ok(&ran)) {
		agent_report(r, "network", COP_AGENT_FAILED, "%s: %s, %s: %s", card->name, text,
			     who, ran.last);
		return;
	}
	while (!has_address(card->name) && agent_now_us() < end_us)
		(void)poll(NULL, 0, LOOK_MS); /* netlink would tell; this is short */
	if (has_address(card->name))
		agent_report(r, "network", COP_AGENT_DONE, "%s: %s, %s", card->name, text, who);
	else
		agent_report(r, "network", COP_AGENT_TIMEOUT, "%s: %s, %s: no address%s",
			     card->name, text, who, had ? "" : ", as before");
}

void agent_step_network(struct agent_report *r, const struct cop_agent_identify *m)
{
	int64_t end_us = agent_now_us() + m->net_timeout_ms * 1000LL;
	struct card cards[COP_AGENT_MAX_NICS];
	unsigned nr;
	int fd;

	if (!m->nr_nics || (agent.tame && !agent.namespaced)) {
		agent_report(r, "network", COP_AGENT_SKIPPED, "%s",
			     m->nr_nics ? "--root" : "no card");
		return;
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		agent_report(r, "network", COP_AGENT_FAILED, "socket: %s", strerror(errno));
		return;
	}
	nr = find_cards(fd, cards);
	for (uint32_t i = 0; i < m->nr_nics; i++) {
		struct card *card = choose(cards, nr, &m->nics[i]);

		if (card)
			one_card(r, fd, card, m->nics[i].new, end_us);
		else
			agent_report(r, "network", COP_AGENT_FAILED, "there is no card %u",
				     m->nics[i].index);
	}
	close(fd);
}

/* --------------------------------------------------------------- ssh's keys */

#define KEYGEN_MS 60000

void agent_step_ssh_keys(struct agent_report *r, const struct cop_agent_identify *m)
{
	static const char *const kinds[] = {"ed25519", "ecdsa", "rsa"};
	static struct agent_ran ran;
	unsigned nr = 0;

	if (!(m->flags & COP_AGENT_IDENTIFY_SSH_KEYS)) {
		agent_report(r, "ssh-keys", COP_AGENT_SKIPPED, "not asked for");
		return;
	}
	if (!agent_have("ssh-keygen")) {
		agent_report(r, "ssh-keys", COP_AGENT_SKIPPED, "there is no ssh-keygen");
		return;
	}
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		char key[4200], public[4210];
		const char *argv[] = {"ssh-keygen", "-q", "-t", kinds[i], "-N", "", "-C", "",
				      "-f", key, NULL};

		snprintf(key, sizeof(key), "%s/ssh_host_%s_key", agent_path("/etc/ssh"), kinds[i]);
		snprintf(public, sizeof(public), "%s.pub", key);
		if (access(key, F_OK) < 0)
			continue;
		/* The old one goes first: no key at all is better than everybody's. */
		if (unlink(key) < 0) {
			agent_report(r, "ssh-keys", COP_AGENT_FAILED, "%s: %s", key,
				     strerror(errno));
			return;
		}
		(void)unlink(public); /* ssh-keygen says so if it matters */
		agent_run(argv, NULL, KEYGEN_MS, &ran);
		if (!agent_run_ok(&ran)) {
			agent_report(r, "ssh-keys",
				     ran.timed_out ? COP_AGENT_TIMEOUT : COP_AGENT_FAILED, "%s: %s",
				     kinds[i], ran.last);
			return;
		}
		nr++;
	}
	if (nr && !agent.tame && access("/run/systemd/system", F_OK) == 0) {
		const char *argv[] = {"systemctl", "--no-block", "try-restart", "ssh.service",
				      "sshd.service", NULL};

		agent_run(argv, NULL, KEYGEN_MS, &ran); /* there may be no such unit */
	}
	agent_report(r, "ssh-keys", nr ? COP_AGENT_DONE : COP_AGENT_SKIPPED,
		     nr ? "%u keys" : "there are none", nr);
}
