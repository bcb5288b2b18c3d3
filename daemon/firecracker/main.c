/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ufdd-firecracker: the engine in a program of its own, which serves one VM of Firecracker, as the
 * handlers do that Firecracker's own tests start.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "firecracker/visitor.h"
#include "firecracker/vm.h"
#include "refusal.h"

enum { EXIT_USAGE = 2 };

#define MAX_VISITORS 16
#define BACKLOG	     16
#define FINISH_NS    (100 * NSEC_PER_MSEC)

/* Everything that main() owns. */
struct server {
	const char *path;
	struct stat node;			/* of the path, as we made it */
	int listener;				/* owned; -EBADF once the VM is there */
	int signals;				/* owned */
	struct visitor *visitors[MAX_VISITORS]; /* owned */
	size_t n_visitors;
	struct vm_options options;
	struct vm *vm; /* owned */
};

static __attribute__((format(printf, 1, 2))) int fail(const char *format, ...)
{
	va_list arguments;

	fputs("ufdd-firecracker: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return -ECANCELED;
}

static const char *words(const struct refusal *refusal)
{
	return json_string_value(json_object_get(refusal->parameters, "message"));
}

/* ---- the socket and the file ---- */

static int open_file(struct server *server, const char *path)
{
	struct stat info;

	server->options.file = open(path, O_RDONLY | O_CLOEXEC);
	if (server->options.file < 0 || fstat(server->options.file, &info) < 0)
		return fail("%s: %s", path, strerror(errno));
	if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))
		return fail("%s: no file that memory can be read from", path);
	return 0;
}

/* One that nobody listens at any more is the rest of a handler that was killed. */
static int remove_stale(const struct sockaddr_un *address)
{
	_cleanup_(closep) int probe = -EBADF;
	struct stat info;

	if (lstat(address->sun_path, &info) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(info.st_mode))
		return -EEXIST;
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return -errno;
	if (connect(probe, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
	    errno != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(address->sun_path) < 0 ? -errno : 0;
}

static int listen_at(struct server *server, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return fail("%s: longer than the %zu bytes of a socket's path; use a shorter one "
			    "from here",
			    path, sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	r = remove_stale(&address);
	if (r < 0)
		return fail("%s: %s", path, strerror(-r));
	server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (server->listener < 0 ||
	    bind(server->listener, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return fail("%s: %s", path, strerror(errno));
	server->path = path;
	if (lstat(path, &server->node) < 0 || listen(server->listener, BACKLOG) < 0)
		return fail("%s: %s", path, strerror(errno));
	return 0;
}

/* Whoever made the path anew after us keeps it. */
static void remove_socket(const struct server *server)
{
	struct stat info;

	if (server->path && lstat(server->path, &info) == 0 && info.st_dev == server->node.st_dev &&
	    info.st_ino == server->node.st_ino)
		unlink(server->path);
}

static int watch_signals(struct server *server)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	server->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return server->signals < 0 ? fail("signals: %s", strerror(errno)) : 0;
}

static bool was_asked_to_end(const struct server *server)
{
	struct signalfd_siginfo info;

	return read(server->signals, &info, sizeof(info)) == sizeof(info);
}

/* ---- until the VM is there ---- */

static void drop_visitor(struct server *server, size_t i)
{
	visitor_free(server->visitors[i]);
	server->visitors[i] = server->visitors[--server->n_visitors];
}

static void drop_everybody(struct server *server)
{
	while (server->n_visitors)
		drop_visitor(server, 0);
	closep(&server->listener);
	server->listener = -EBADF;
}

static void accept_visitors(struct server *server)
{
	int r = 0;

	while (r != -EAGAIN && server->n_visitors < MAX_VISITORS) {
		r = visitor_accept(&server->visitors[server->n_visitors], server->listener);
		if (r == 0)
			server->n_visitors++;
		else if (r != -EAGAIN && r != -ESRCH)
			break;
	}
}

/* It is the VM. Whatever is wrong with it, no other will come: it waits for ever, and must be ended. */
static int take_vm(struct server *server, size_t i, const struct frontend_offer *offer)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct visitor *visitor = server->visitors[i];
	uint64_t n_bytes = 0;

	for (size_t j = 0; j < offer->n_regions; j++)
		n_bytes += offer->regions[j].length_bytes;
	printf("process %d (%s) hands over %llu MiB in %zu regions\n", visitor->pid, offer->version,
	       (unsigned long long)(n_bytes / MIB), offer->n_regions);
	if (vm_start(&server->vm, &server->options, visitor, offer, &refusal) < 0)
		return fail("%s; process %d waits for its memory, and nobody will bring it: end it",
			    words(&refusal), visitor->pid);
	printf("it is served\n");
	return 0;
}

/* What comes of it costs nobody else. Return: 0, -ECANCELED if we cannot go on. */
static int hear_visitor(struct server *server, size_t i)
{
	_cleanup_(refusal_done) struct refusal refusal = {};
	struct visitor *visitor = server->visitors[i];
	struct frontend_offer offer;
	int r = visitor_read(visitor, &offer, &refusal);

	if (r == 0)
		return take_vm(server, i, &offer);
	if (r == VISITOR_MORE && clock_now_ns() < visitor->deadline_ns)
		return 0;
	if (r == VISITOR_MORE)
		fail("process %d has said no whole message in time (%zu bytes)", visitor->pid,
		     visitor->n_bytes);
	else if (r < 0)
		fail("process %d is not served: %s", visitor->pid, words(&refusal));
	r = r < 0 && strcmp(refusal.error, "io.ufd.handoff.UnsupportedDialect") == 0 ? r : 0;
	drop_visitor(server, i);
	return r;
}

/* How long poll() may wait: until the first deadline. */
static int patience_ms(const struct server *server)
{
	uint64_t now_ns = clock_now_ns(), first_ns = UINT64_MAX;

	for (size_t i = 0; i < server->n_visitors; i++)
		first_ns = min_u64(first_ns, server->visitors[i]->deadline_ns);
	if (first_ns == UINT64_MAX)
		return -1;
	return first_ns <= now_ns ? 0 : (int)((first_ns - now_ns) / NSEC_PER_MSEC) + 1;
}

/* Return: 0 when the VM is served, 1 when we were asked to end, -ECANCELED. */
static int wait_for_vm(struct server *server)
{
	while (!server->vm) {
		struct pollfd fds[2 + MAX_VISITORS] = {
			{ .fd = server->signals, .events = POLLIN },
			{ .fd = server->n_visitors < MAX_VISITORS ? server->listener : -1,
			  .events = POLLIN },
		};
		int r = 0;

		for (size_t i = 0; i < server->n_visitors; i++)
			fds[2 + i] = (struct pollfd){ .fd = server->visitors[i]->socket,
						      .events = POLLIN };
		if (poll(fds, 2 + server->n_visitors, patience_ms(server)) < 0 && errno != EINTR)
			return fail("poll: %s", strerror(errno));
		if (fds[0].revents && was_asked_to_end(server))
			return 1;
		/* backwards: who is dropped gives the last one its place */
		for (size_t i = server->n_visitors; r == 0 && !server->vm && i-- > 0;)
			if (fds[2 + i].revents ||
			    clock_now_ns() >= server->visitors[i]->deadline_ns)
				r = hear_visitor(server, i);
		if (r < 0)
			return r;
		if (fds[1].revents && !server->vm)
			accept_visitors(server);
	}
	return 0;
}

/* ---- until it has ended ---- */

/* The VM is to live without us. Asked twice, we leave it to wait. */
static int leave_vm(struct server *server)
{
	int r;

	printf("asked to end: what is absent is filled first\n");
	do {
		r = vm_finish(server->vm, FINISH_NS);
		if (r == VM_FILLING && was_asked_to_end(server))
			return fail("asked again: the VM waits for what is absent");
	} while (r == VM_FILLING);
	printf(r == 0 ? "the VM needs us no more\n" : "the VM has ended\n");
	return 0;
}

static int serve(struct server *server)
{
	struct pollfd fds[] = {
		{ .fd = server->signals, .events = POLLIN },
		{ .fd = vm_pidfd(server->vm), .events = POLLIN },
		{ .fd = vm_events_fd(server->vm), .events = POLLIN },
	};

	for (;;) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			return fail("poll: %s", strerror(errno));
		if (fds[2].revents)
			vm_dispatch(server->vm);
		if (fds[1].revents) {
			printf("the VM has ended\n");
			vm_say_counts(server->vm);
			return 0;
		}
		if (fds[0].revents && was_asked_to_end(server)) {
			vm_say_counts(server->vm);
			return leave_vm(server);
		}
	}
}

/* ---- the command line ---- */

static void print_help(void)
{
	puts("Usage: ufdd-firecracker [OPTION]... SOCKET MEMFILE\n"
	     "Serve one VM of Firecracker that loads a snapshot with the memory file MEMFILE,\n"
	     "and the `Uffd` backend at SOCKET, which is made. Ends when the VM has ended.\n"
	     "\n"
	     "      --no-background   fill only what the VM touches, and its neighbours\n"
	     "      --version         print the version and exit\n"
	     "  -h, --help            print this and exit\n"
	     "\n"
	     "Exit status: 0 the VM has ended, or lives without us; 1 it could not be served;\n"
	     "2 usage.");
}

/* Return: -1 to go on, else the exit status. */
static int parse_options(int argc, char **argv, struct server *server)
{
	static const struct option long_options[] = {
		{ "no-background", no_argument, NULL, 'b' },
		{ "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{},
	};
	int option;

	while ((option = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		switch (option) {
		case 'b':
			server->options.has_no_background = true;
			break;
		case 'v':
			printf("ufdd-firecracker %s\n", UFD_VERSION);
			return EXIT_SUCCESS;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 2) {
		fail("a socket and a memory file are needed; see --help");
		return EXIT_USAGE;
	}
	return -1;
}

static int run(struct server *server, const char *socket, const char *file)
{
	int r;

	r = open_file(server, file);
	if (r == 0)
		r = watch_signals(server);
	if (r == 0)
		r = listen_at(server, socket);
	if (r < 0)
		return r;
	printf("waiting at %s for the VM whose memory is %s\n", socket, file);
	r = wait_for_vm(server);
	drop_everybody(server);
	if (r == 0)
		r = serve(server);
	return r < 0 ? r : 0;
}

int main(int argc, char **argv)
{
	struct server server = { .listener = -EBADF, .signals = -EBADF, .options.file = -EBADF };
	int status = parse_options(argc, argv, &server);

	if (status >= 0)
		return status;
	setvbuf(stdout, NULL, _IOLBF, 0);
	status = run(&server, argv[optind], argv[optind + 1]) < 0;
	drop_everybody(&server);
	remove_socket(&server);
	vm_free(server.vm);
	closep(&server.signals);
	closep(&server.options.file);
	return status;
}
