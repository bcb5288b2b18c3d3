/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The simulated Cloud Hypervisor as the one that receives a guest and runs it while its pages come: a thread
 * that answers its faults by asking for them, and asks for all others in turn when it has time; two threads
 * that are the guest and look at every byte.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/sim-ch.h"

#define MAX_PAGES 768 /* of a mapping */

enum { UNTOUCHED, WRITTEN, GIVEN_BACK };

static struct {
	const struct sim_receiver *how;
	int files[SIM_N_MAPPINGS]; /* -1 until they come */
	char *memory[SIM_N_MAPPINGS];
	bool is_asked[SIM_N_MAPPINGS][MAX_PAGES];
	_Atomic char guest[SIM_N_MAPPINGS][MAX_PAGES];
	int uffd;
	int faults; /* the connection */
	uint64_t n_faults;
	_Atomic bool is_running; /* the guest */
} sim;

static bool is(const char *how)
{
	return sim.how->how && strcmp(sim.how->how, how) == 0;
}

/* ---- memory ---- */

static void register_memory(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	uint64_t mode = UFFDIO_REGISTER_MODE_MISSING;

	if (!sim.how->is_inline && !sim.how->is_missing_only) {
		api.features = UFFD_FEATURE_MINOR_SHMEM;
		mode |= UFFDIO_REGISTER_MODE_MINOR;
	}
	sim.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (sim.uffd < 0 || ioctl(sim.uffd, UFFDIO_API, &api) < 0)
		sim_fail("userfaultfd: %s", strerror(errno));
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++) {
		struct uffdio_register range = {
			.range = { (uintptr_t)sim.memory[i], sim_mappings[i].size },
			.mode = mode,
		};

		if (ioctl(sim.uffd, UFFDIO_REGISTER, &range) < 0)
			sim_fail("UFFDIO_REGISTER: %s", strerror(errno));
	}
}

static void map_memory(void)
{
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++) {
		const struct sim_mapping *mapping = &sim_mappings[i];

		if (!sim.how->is_inline && sim.files[i] < 0)
			sim_fail("no file for slot %u", mapping->slot);
		sim.memory[i] = mmap(NULL, mapping->size, PROT_READ | PROT_WRITE,
				     sim.how->is_inline ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED,
				     sim.how->is_inline ? -1 : sim.files[i],
				     sim.how->is_inline ? 0 : (off_t)mapping->file_offset);
		if (sim.memory[i] == MAP_FAILED)
			sim_fail("mmap: %s", strerror(errno));
	}
	register_memory();
}

/* ---- faults ---- */

static void resolve(char *address, char *bytes)
{
	struct uffdio_range range = { (uintptr_t)address, SIM_PAGE };
	struct uffdio_continue map = { .range = range };
	struct uffdio_copy copy = { .dst = (uintptr_t)address,
				    .src = (uintptr_t)bytes,
				    .len = SIM_PAGE };
	int r;

	if (sim.how->is_inline)
		r = ioctl(sim.uffd, UFFDIO_COPY, &copy);
	else if (sim.how->is_missing_only)
		r = ioctl(sim.uffd, UFFDIO_WAKE, &range);
	else
		r = ioctl(sim.uffd, UFFDIO_CONTINUE, &map);
	if (r < 0 && errno == EEXIST)
		r = ioctl(sim.uffd, UFFDIO_WAKE, &range);
	if (r < 0)
		sim_fail("a page that was delivered is not there: %s", strerror(errno));
}

static void ask_for_page(size_t i, uint64_t at)
{
	struct {
		struct sim_head head;
		struct sim_range range;
	} __attribute__((packed)) request = {
		.head = { .word = SIM_PAGE_FAULT, .n_payload = sizeof(struct sim_range) },
		.range = { sim_mappings[i].gpa + at, SIM_PAGE },
	};
	static char bytes[SIM_PAGE];
	struct sim_head answer;

	if (is("nonsense") && sim.n_faults == 100)
		request.head.word = 77;
	if (is("outside") && sim.n_faults == 100)
		request.range.gpa = UINT64_C(1) << 45;
	/* the request in two pieces now and then, as two writes make it */
	sim_send(sim.faults, &request, sim.n_faults % 3 ? 16 : 5, -1);
	sim_send(sim.faults, (char *)&request + (sim.n_faults % 3 ? 16 : 5),
		 sizeof(request) - (sim.n_faults % 3 ? 16 : 5), -1);
	if (!sim_receive(sim.faults, &answer, sizeof(answer), NULL))
		sim_fail("the fault connection was closed");
	if (answer.word != 1) {
		puts("refused PageFault");
		_exit(3);
	}
	if (answer.n_payload != (sim.how->is_inline ? SIM_PAGE : 0))
		sim_fail("a page with %llu bytes", (unsigned long long)answer.n_payload);
	if (answer.n_payload && !sim_receive(sim.faults, bytes, SIM_PAGE, NULL))
		sim_fail("half a page");
	sim.is_asked[i][at / SIM_PAGE] = true;
	resolve(sim.memory[i] + at, bytes);
	if (++sim.n_faults == sim.how->n_before_hold) {
		puts("held");
		if (getchar() == EOF)
			_exit(4);
	}
}

static void serve_fault(const struct uffd_msg *message)
{
	uint64_t address = message->arg.pagefault.address & ~(uint64_t)(SIM_PAGE - 1);

	for (size_t i = 0; i < SIM_N_MAPPINGS; i++) {
		uint64_t at = address - (uintptr_t)sim.memory[i];

		if (at < sim_mappings[i].size)
			ask_for_page(i, at);
	}
}

/* Return: false when there is none left. */
static bool serve_next(size_t *i, uint64_t *at)
{
	while (*i < SIM_N_MAPPINGS) {
		uint64_t here = *at;

		if (here == sim_mappings[*i].size) {
			*at = 0;
			(*i)++;
			continue;
		}
		*at += SIM_PAGE;
		if (!sim.is_asked[*i][here / SIM_PAGE]) {
			ask_for_page(*i, here);
			return true;
		}
	}
	return false;
}

/* Faults first; the rest in turn, once the guest runs. Then nothing is missing any more. */
static void *serve_faults(void *userdata)
{
	struct pollfd fd = { .fd = sim.uffd, .events = POLLIN };
	uint64_t at = 0;
	size_t i = 0;

	for (;;) {
		struct uffd_msg message;

		if (read(sim.uffd, &message, sizeof(message)) == sizeof(message))
			serve_fault(&message);
		else if (!sim.is_running)
			(void)poll(&fd, 1, 2);
		else if (!serve_next(&i, &at))
			break;
	}
	close(sim.faults);
	for (i = 0; i < SIM_N_MAPPINGS; i++) {
		struct uffdio_range range = { (uintptr_t)sim.memory[i], sim_mappings[i].size };

		if (ioctl(sim.uffd, UFFDIO_UNREGISTER, &range) < 0)
			sim_fail("UFFDIO_UNREGISTER: %s", strerror(errno));
	}
	return userdata;
}

/* ---- the guest ---- */

static void check_page(size_t i, uint64_t at, const char *when)
{
	char state = sim.guest[i][at / SIM_PAGE];
	uint64_t words[SIM_PAGE / 8] = {};

	if (state != GIVEN_BACK)
		sim_page(sim.how->seed, sim_mappings[i].gpa + at, words);
	if (state == WRITTEN)
		words[5] = ~(uint64_t)at;
	if (memcmp(sim.memory[i] + at, words, SIM_PAGE) != 0)
		sim_fail("slot %u, page %llu (%s) is wrong %s", sim_mappings[i].slot,
			 (unsigned long long)(at / SIM_PAGE),
			 state == WRITTEN      ? "written"
			 : state == GIVEN_BACK ? "given back"
					       : "untouched",
			 when);
}

static void write_page(size_t i, uint64_t at)
{
	uint64_t value = ~(uint64_t)at;

	memcpy(sim.memory[i] + at + 40, &value, sizeof(value));
	sim.guest[i][at / SIM_PAGE] = WRITTEN;
}

/* Thread @which has the pages with its remainder of two; it goes through them in an order of its own. */
static void *run_guest(void *which)
{
	uint64_t mine = (uintptr_t)which;

	for (size_t turn = 0; turn < SIM_N_MAPPINGS; turn++) {
		size_t i = (turn + mine * 2) % SIM_N_MAPPINGS;
		uint64_t n_pages = sim_mappings[i].size / SIM_PAGE;

		for (uint64_t n = 0; n < n_pages / 2; n++) {
			uint64_t page = (n * 97 + 31) % (n_pages / 2) * 2 + mine;
			uint64_t at = page * SIM_PAGE;

			check_page(i, at, "at the first touch");
			if (page % 5 == 0) {
				write_page(i, at);
				check_page(i, at, "after it was written");
			} else if (page % 35 == 1 && !sim.how->is_inline) {
				if (madvise(sim.memory[i] + at, SIM_PAGE, MADV_REMOVE) < 0)
					sim_fail("MADV_REMOVE: %s", strerror(errno));
				sim.guest[i][page] = GIVEN_BACK;
				check_page(i, at, "after it was given back");
			}
		}
	}
	return NULL;
}

static void check_all(void)
{
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++)
		for (uint64_t at = 0; at < sim_mappings[i].size; at += SIM_PAGE)
			check_page(i, at, "at the end");
}

/* ---- the conversation ---- */

static uint16_t receive(int socket, char **ret, size_t *ret_n)
{
	struct sim_head head;

	if (!sim_receive(socket, &head, sizeof(head), NULL)) {
		puts("refused by a closed connection");
		exit(3);
	}
	*ret = malloc(head.n_payload + 1);
	*ret_n = head.n_payload;
	if (head.word != SIM_MEMORY_FD && head.n_payload &&
	    !sim_receive(socket, *ret, head.n_payload, NULL))
		sim_fail("no payload");
	return head.word;
}

static void answer(int socket, uint16_t status)
{
	struct sim_head head = { .word = status };

	sim_send(socket, &head, sizeof(head), -1);
}

static void receive_file(int socket)
{
	uint32_t slot;
	int fd = -1;

	if (!sim_receive(socket, &slot, sizeof(slot), &fd) || fd < 0)
		sim_fail("a MemoryFd without fd");
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++)
		if (sim_mappings[i].slot == slot) {
			if (lseek(fd, 0, SEEK_END) !=
			    (off_t)(sim_mappings[i].file_offset + sim_mappings[i].size))
				sim_fail("the file of slot %u has a wrong length", slot);
			sim.files[i] = fd;
			return;
		}
	sim_fail("slot %u?", slot);
}

static void expect_text(const char *what, const char *bytes, size_t n_bytes, const char *wanted)
{
	if (n_bytes != strlen(wanted) || memcmp(bytes, wanted, n_bytes) != 0)
		sim_fail("%s came back as something else", what);
}

/* Devices look at guest memory while they are restored. */
static void load_devices(void)
{
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++)
		for (uint64_t at = 0; at < 16 * SIM_PAGE; at += SIM_PAGE)
			check_page(i, at, "to a device");
}

static void accept_faults(int listener)
{
	uint16_t role;

	sim.faults = accept(listener, NULL, NULL);
	if (!sim_receive(sim.faults, &role, sizeof(role), NULL) || role != 2)
		sim_fail("no fault connection");
}

static void converse(int listener, int socket, pthread_t *ret_thread)
{
	bool is_over = false;

	while (!is_over) {
		char *bytes = NULL;
		size_t n_bytes = 0;
		uint16_t command = receive(socket, &bytes, &n_bytes);

		if (is("refuse-config") && command == SIM_CONFIG) {
			answer(socket, 2);
			puts("refused Config");
			exit(0);
		}
		if (command == SIM_MEMORY_FD)
			receive_file(socket);
		if (command == SIM_CONFIG) {
			expect_text("Config", bytes, n_bytes, sim_config(sim.how->seed));
			map_memory();
		}
		if (command == SIM_STATE) {
			expect_text("State", bytes, n_bytes, sim_state(sim.how->seed));
			if (is("refuse-state")) {
				answer(socket, 2);
				exit(0);
			}
			load_devices();
		}
		is_over = command == SIM_COMPLETE || command == SIM_COMPLETE_PAUSED;
		if (is_over)
			puts(command == SIM_COMPLETE ? "runs" : "paused");
		answer(socket, 1);
		if (command == SIM_CONFIG) {
			accept_faults(listener);
			pthread_create(ret_thread, NULL, serve_faults, NULL);
		}
		free(bytes);
	}
}

int sim_main_receive(const struct sim_receiver *receiver)
{
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pthread_t server, guest[2];

	sim.how = receiver;
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++)
		sim.files[i] = -1;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", receiver->path);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 4) < 0)
		sim_fail("%s: %s", receiver->path, strerror(errno));
	puts("listening");
	if (is("silent")) {
		(void)accept(listener, NULL, NULL);
		pause();
	}
	converse(listener, accept(listener, NULL, NULL), &server);
	sim.is_running = true;
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&guest[i], NULL, run_guest, (void *)i);
	for (size_t i = 0; i < 2; i++)
		pthread_join(guest[i], NULL);
	pthread_join(server, NULL);
	check_all();
	printf("complete %llu\n", (unsigned long long)sim.n_faults);
	return 0;
}
