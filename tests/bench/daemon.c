/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The real daemon. */
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <ufd/ufd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "image.h"
#include "machine.h"
#include "ram.h"

#define START_NS (10 * NSEC_PER_SEC)

struct bench_daemon {
	pid_t pid;
	char socket[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	struct ufd_client *client;
	unsigned int n_guests;
};

static void make_empty_file(const char *path)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0)
		die("cannot make %s", path);
	close(fd);
}

/* In the child: settings of the host must not change what is measured. */
static _Noreturn void become(const char *path, const char *socket, const char *folder)
{
	char settings[4096], log[4096];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(settings, sizeof(settings), "%s/ufdd.conf", folder);
	snprintf(log, sizeof(log), "%s/ufdd.log", folder);
	make_empty_file(settings);
	fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		die("cannot write %s", log);
	execl(path, path, "--socket", socket, "--config", settings, NULL);
	die("cannot run %s", path);
}

/* It listens when somebody can connect. */
static bool is_listening(const struct bench_daemon *daemon)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		die("no socket");
	memcpy(address.sun_path, daemon->socket, sizeof(address.sun_path));
	r = connect(fd, (struct sockaddr *)&address, sizeof(address));
	close(fd);
	return r == 0;
}

struct bench_daemon *bench_daemon_new(const char *path, const char *folder)
{
	struct bench_daemon *daemon = calloc(1, sizeof(*daemon));
	uint64_t deadline_ns = clock_now_ns() + START_NS;
	int length;

	if (!daemon)
		die("no memory");
	length = snprintf(daemon->socket, sizeof(daemon->socket), "%s/ufdd.socket", folder);
	if (length >= (int)sizeof(daemon->socket))
		die("%s is too long a path for a socket", folder);
	daemon->pid = fork();
	if (daemon->pid < 0)
		die("cannot fork the daemon");
	if (daemon->pid == 0)
		become(path, daemon->socket, folder);
	while (!is_listening(daemon)) {
		if (waitpid(daemon->pid, NULL, WNOHANG) || clock_now_ns() > deadline_ns)
			die("%s did not start; see %s/ufdd.log", path, folder);
		usleep(2000);
	}
	machine_own(daemon->pid);
	return daemon;
}

void bench_daemon_attach(struct bench_daemon *daemon, const struct ram *ram,
			 const struct image *image, const struct service *service)
{
	const char *error = "";
	char name[32];

	snprintf(name, sizeof(name), "bench-%u", daemon->n_guests++);
	UFD_OPTS(ufd_client_opts, opts, .guest = name, .socket_path = daemon->socket,
		 .cpu = 1 + (uint32_t)service->cpu,
		 .window_bytes = service->has_window ? 0 : UFD_CLIENT_NO_WINDOW,
		 .background = service->has_background ? UFD_CLIENT_ON : UFD_CLIENT_OFF,
		 .background_rate = service->background_mib_s ? service->background_mib_s * MIB
							      : UFD_CLIENT_NO_LIMIT);
	if (ufd_client_new(&daemon->client, &opts, &error) < 0)
		die("libufd: %s", error);
	UFD_OPTS(ufd_client_memory_opts, memory, .name = "ram", .address = ram->at,
		 .length = ram->length_bytes, .page_bytes = ram->page_bytes,
		 .source = service->is_minor  ? "backing"
			   : service->is_zero ? "zero"
					      : "file:",
		 .backing = ram->backing,
		 .source_fd = service->is_minor || service->is_zero ? -1 : image->fd);
	if (ufd_client_add_memory(daemon->client, &memory) < 0 ||
	    ufd_client_attach(daemon->client) < 0)
		die("ufdd: %s", ufd_client_error(daemon->client));
}

void bench_daemon_detach(struct bench_daemon *daemon)
{
	if (ufd_client_detach(daemon->client, NULL) < 0)
		die("ufdd: %s", ufd_client_error(daemon->client));
	daemon->client = ufd_client_free(daemon->client);
}
