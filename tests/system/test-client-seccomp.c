/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libufd under the filter that libufd(3) prints: a forked VMM lives a client's whole life, the
 * daemon's death included, and may call nothing but what the page lists. The daemon is played by
 * the test's own process.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "kernel/uffd.h"
#include "unit/test-client.h"

/* A sanitizer's runtime makes calls of its own. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#define PAGE	    ((uint64_t)sysconf(_SC_PAGESIZE))
#define N_PAGES	    16
#define MAX_CALLS   64
#define EXIT_CAUGHT 99

#define CALL(name)                 \
	{                          \
#name, __NR_##name \
	}

/* Every call that the page may name. */
static const struct {
	const char *name;
	int number;
} known_calls[] = {
	CALL(brk),
	CALL(clock_gettime),
	CALL(clock_nanosleep),
	CALL(close),
	CALL(connect),
	CALL(epoll_create1),
	CALL(epoll_ctl),
	CALL(fcntl),
	CALL(fstat),
	CALL(fstatfs),
	CALL(futex),
	CALL(getpid),
	CALL(getrandom),
	CALL(ioctl),
	CALL(lseek),
	CALL(mmap),
	CALL(mremap),
	CALL(munmap),
	CALL(newfstatat),
	CALL(openat),
	CALL(poll),
	CALL(pread64),
	CALL(read),
	CALL(recvmsg),
	CALL(sendmsg),
	CALL(socket),
	CALL(timerfd_create),
	CALL(timerfd_settime),
	CALL(userfaultfd),
};

struct filter {
	int allowed[MAX_CALLS];
	size_t n_allowed;
};

/* Shared with the VMM: the call it was caught at. */
static volatile int *caught;

static int number_of(const char *name)
{
	for (int i = 0; i < N_ROWS(known_calls); i++)
		if (strcmp(known_calls[i].name, name) == 0)
			return known_calls[i].number;
	ck_abort_msg("libufd(3) names a call that this test does not know: %s", name);
	return -1;
}

/* The block of words in the page's section SYSTEM CALLS, less @without. */
static void read_page(struct filter *filter, const char *without)
{
	const char *root = getenv("SOURCE_ROOT") ? getenv("SOURCE_ROOT") : ".";
	char path[512], line[512];
	int section = 0; /* 1: in it, 2: in its block */
	FILE *page;

	snprintf(path, sizeof(path), "%s/docs/man/libufd.3.scd", root);
	page = fopen(path, "re");
	ck_assert_msg(page != NULL, "%s: %m", path);
	while (fgets(line, sizeof(line), page)) {
		if (strncmp(line, "```", 3) == 0 && section)
			section++;
		else if (strcmp(line, "# SYSTEM CALLS\n") == 0)
			section = 1;
		if (section != 2)
			continue;
		for (char *word = strtok(line, " \n`"); word; word = strtok(NULL, " \n`"))
			if (!without || strcmp(word, without) != 0)
				filter->allowed[filter->n_allowed++] = number_of(word);
	}
	fclose(page);
	ck_assert_uint_gt(filter->n_allowed, 10);
}

/* ---- the VMM --------------------------------------------------------------------------------- */

static void on_caught(int signal, siginfo_t *info, void *context)
{
	*caught = info->si_syscall;
	_exit(EXIT_CAUGHT);
}

/* What is not listed raises SIGSYS, and the handler ends the process: then the call can be named.
 */
static void install(const struct filter *filter)
{
	struct sock_filter code[MAX_CALLS + 8] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sigaction action = { .sa_sigaction = on_caught, .sa_flags = SA_SIGINFO };
	struct sock_fprog program = { .filter = code };
	size_t n = 1;

	for (size_t i = 0; i <= filter->n_allowed; i++) {
		bool is_last = i == filter->n_allowed;
		uint32_t number = is_last ? __NR_exit_group : (uint32_t)filter->allowed[i];

		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number,
							 (uint8_t)(filter->n_allowed - i + 1), 0);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = (unsigned short)n;
	sigaction(SIGSYS, &action, NULL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(3);
}

static void on_event(struct ufd_client *client, uint32_t event, void *userdata)
{
	*(uint32_t *)userdata = event;
}

/* A step failed: which one is the exit status. */
#define STEP(number, call)               \
	do {                             \
		if ((call) < 0)          \
			_exit((number)); \
	} while (0)

static int add(struct ufd_client *client, const char *name, void *address, int backing)
{
	UFD_OPTS(ufd_client_memory_opts, opts, .name = name, .source = "zero", .address = address,
		 .length = N_PAGES * PAGE, .backing = backing);

	return ufd_client_add_memory(client, &opts);
}

static _Noreturn void run_vmm(const char *path, const struct filter *filter)
{
	UFD_OPTS(ufd_client_detach_opts, detach, .no_populate = 1);
	uint64_t length = N_PAGES * PAGE;
	int memfd = memfd_create("ram", MFD_CLOEXEC);
	char *shared, *anon, *hot;
	struct ufd_client *client;
	uint32_t event = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	STEP(10, ftruncate(memfd, (off_t)length));
	shared = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	anon = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hot = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	UFD_OPTS(ufd_client_opts, opts, .guest = "g", .socket_path = path, .on_event = on_event,
		 .userdata = &event, .flags = geteuid() == 0 ? 0 : UFD_CLIENT_USER_MODE);
	install(filter);

	STEP(11, ufd_client_new(&client, &opts, NULL));
	STEP(12, add(client, "shared", shared, memfd));
	STEP(13, add(client, "anon", anon, 0));
	STEP(14, ufd_client_attach(client));
	STEP(15, add(client, "hot", hot, 0));
	STEP(16, ufd_client_note_discard(client, "shared", PAGE, 3 * PAGE));
	STEP(17, ufd_client_note_discard(client, "anon", PAGE, 3 * PAGE));
	shared[8 * PAGE] = 1; /* the daemon has filled these two */
	anon[2 * PAGE] = 1;
	STEP(18, ufd_client_note_write(client, "shared", 0, PAGE));
	while (event != UFD_CLIENT_REATTACHED) {
		struct pollfd entry = { .fd = ufd_client_fd(client), .events = POLLIN };

		if (poll(&entry, 1, 10000) != 1 || event == UFD_CLIENT_REFUSED)
			_exit(19);
		STEP(20, ufd_client_dispatch(client));
	}
	STEP(21, ufd_client_remove_region(client, hot, length));
	STEP(22, ufd_client_detach(client, &detach));
	ufd_client_free(client);
	_exit(0);
}

/* ---- the daemon ------------------------------------------------------------------------------ */

struct server {
	int listener;
	int socket;
	int uffd;
	pid_t vmm;
	bool has_died;
	struct frame_reader reader;
};

static void close_both(struct server *server)
{
	closep(&server->socket);
	closep(&server->uffd);
	server->socket = server->uffd = -EBADF;
	frame_reader_done(&server->reader);
	server->reader = (struct frame_reader){};
}

static void register_regions(struct server *server, const json_t *regions)
{
	size_t i;
	json_t *region;
	int r;

	json_array_foreach(regions, i, region)
	{
		struct hva_range range = {
			{ (uint64_t)json_integer_value(json_object_get(region, "address")) },
			(uint64_t)json_integer_value(json_object_get(region, "length_bytes")),
		};

		r = uffd_register(server->uffd, range, UFFD_MODE_MISSING, NULL);
		ck_assert(r == 0 || r == UFFD_GONE); /* caught at its very next call */
		for (int page = 2; page <= 8; page += 6) {
			uint64_t done;

			uffd_zeropage(server->uffd,
				      (struct hva_range){ hva_add(range.start, page * PAGE), PAGE },
				      0, &done);
		}
	}
}

/* A VMM that was caught has gone already. */
static void say(const struct server *server, const char *text)
{
	if (send(server->socket, text, strlen(text) + 1, MSG_NOSIGNAL) < 0)
		ck_assert_int_eq(errno, EPIPE);
}

static void answer(struct server *server, struct frame *frame)
{
	const char *method = json_string_value(json_object_get(frame->message, "method"));
	char attached[96];

	snprintf(attached, sizeof(attached), "{\"parameters\":{\"guest\":{\"pid\":%d}}}",
		 server->vmm);
	if (strcmp(method, "io.ufd.guest.Attach") == 0) {
		server->uffd = TAKE_FD(frame->fds[json_integer_value(parameter(frame, "uffd"))]);
		register_regions(server, parameter(frame, "regions"));
		say(server, attached);
	} else if (strcmp(method, "io.ufd.guest.Show") == 0) {
		say(server, NO_SUCH_GUEST);
	} else {
		if (strcmp(method, "io.ufd.guest.AddRegions") == 0)
			register_regions(server, parameter(frame, "regions"));
		say(server, DONE);
	}
	if (strcmp(method, "io.ufd.guest.NoteWrite") == 0) {
		close_both(server); /* dies */
		server->has_died = true;
	}
}

/* Serve until the VMM ends. Return: its wait status. */
static int serve(struct server *server)
{
	int status;

	while (waitpid(server->vmm, &status, WNOHANG) == 0) {
		bool is_open = server->socket >= 0;
		struct pollfd entry = { .fd = is_open ? server->socket : server->listener,
					.events = POLLIN };
		_cleanup_(frame_done) struct frame frame = {};

		if (poll(&entry, 1, 20) <= 0)
			continue;
		if (!is_open) {
			server->socket = accept(server->listener, NULL, NULL);
			continue;
		}
		if (frame_reader_receive(&server->reader, server->socket) != 0) {
			close_both(server);
			continue;
		}
		if (frame_reader_next(&server->reader, &frame) == 0)
			answer(server, &frame);
	}
	return status;
}

static int run(const struct filter *filter, bool *ret_has_died)
{
	struct server server = { .socket = -EBADF, .uffd = -EBADF };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int status;

	caught = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*caught = -1;
	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/ufd-test-seccomp.%d", getpid());
	unlink(address.sun_path);
	server.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(server.listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(server.listener, 8), 0);
	server.vmm = fork();
	ck_assert_int_ge(server.vmm, 0);
	if (server.vmm == 0)
		run_vmm(address.sun_path, filter);
	status = serve(&server);
	close_both(&server);
	close(server.listener);
	unlink(address.sun_path);
	*ret_has_died = server.has_died;
	return status;
}

/* ---- tests ----------------------------------------------------------------------------------- */

START_TEST(the_calls_of_the_page_are_enough_for_a_whole_life)
{
	struct filter filter = {};
	bool has_died;
	int status;

	read_page(&filter, NULL);
	status = run(&filter, &has_died);
	ck_assert_msg(*caught == -1, "libufd(3) does not list system call %d", *caught);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the VMM ended with %#x",
		      status);
	ck_assert(has_died);
}
END_TEST

static const char *const essential[] = {
	"close",  "connect",	    "epoll_create1",   "epoll_ctl",
	"fcntl",  "fstatfs",	    "getpid",	       "ioctl",
	"lseek",  "mmap",	    "munmap",	       "openat",
	"poll",	  "read",	    "recvmsg",	       "sendmsg",
	"socket", "timerfd_create", "timerfd_settime", "userfaultfd",
};

START_TEST(each_call_that_is_taken_off_the_list_is_caught)
{
	struct filter filter = {};
	bool has_died;
	int status;

	read_page(&filter, essential[_i]);
	status = run(&filter, &has_died);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_CAUGHT,
		      "without %s the VMM ended with %#x", essential[_i], status);
	ck_assert_int_eq(*caught, number_of(essential[_i]));
}
END_TEST

int main(void)
{
	return unit_run(
		"client-seccomp",
		(struct unit_test[]){
			UNIT(the_calls_of_the_page_are_enough_for_a_whole_life),
			UNIT_TABLE(each_call_that_is_taken_off_the_list_is_caught, essential),
			{},
		});
}

#else

START_TEST(the_list_of_calls_is_for_plain_x86_64)
{
	unit_skip("libufd(3) lists the system calls of x86-64 without sanitizers");
}
END_TEST

int main(void)
{
	return unit_run("client-seccomp",
			(struct unit_test[]){ UNIT(the_list_of_calls_is_for_plain_x86_64), {} });
}

#endif
