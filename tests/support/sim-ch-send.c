/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated Cloud Hypervisor as the one that sends its guest, well or badly. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/sim-ch.h"

struct sender {
	int socket;
	uint64_t seed;
	const char *how;
	int files[2];
};

static bool is(const struct sender *sender, const char *how)
{
	return sender->how && strcmp(sender->how, how) == 0;
}

static _Noreturn void refused(const char *what)
{
	printf("refused %s\n", what);
	exit(3);
}

static void ask(const struct sender *sender, uint16_t command, const void *payload,
		size_t n_payload, int fd, const char *what)
{
	uint16_t status = sim_ask(sender->socket, command, payload, n_payload, fd);

	if (status != 1)
		refused(status == 2 ? what : "without an answer");
}

static void make_memory(struct sender *sender)
{
	uint64_t words[SIM_PAGE / 8];
	static const uint64_t zeros[SIM_PAGE / 8];

	for (int i = 0; i < 2; i++)
		sender->files[i] = memfd_create("guest", MFD_CLOEXEC);
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++) {
		const struct sim_mapping *mapping = &sim_mappings[i];
		int fd = sender->files[mapping->file];

		if (ftruncate(fd, (off_t)(mapping->file_offset + mapping->size)) < 0)
			sim_fail("no memory");
		for (uint64_t at = 0; at < mapping->size; at += SIM_PAGE) {
			sim_page(sender->seed, mapping->gpa + at, words);
			/* some zeros are holes, others pages of zeros */
			if (memcmp(words, zeros, SIM_PAGE) == 0 && at / SIM_PAGE % 256 >= 230)
				continue;
			if (pwrite(fd, words, SIM_PAGE, (off_t)(mapping->file_offset + at)) !=
			    SIM_PAGE)
				sim_fail("no memory");
		}
	}
}

static void send_files(const struct sender *sender)
{
	for (size_t i = 0; i < SIM_N_MAPPINGS; i++) {
		uint32_t slot = sim_mappings[i].slot;
		int fd = sender->files[sim_mappings[i].file];

		if (is(sender, "no-fd"))
			fd = -1;
		if (is(sender, "pipe")) {
			int pair[2];

			if (pipe(pair) < 0)
				sim_fail("no pipe");
			fd = pair[0];
		}
		if (is(sender, "one-fd-less") && i == 2)
			continue;
		if (is(sender, "same-slot"))
			slot = 0;
		ask(sender, SIM_MEMORY_FD, &slot, sizeof(slot), fd, "MemoryFd");
	}
}

/* Backwards, in pieces of 64 KiB, and the first of them twice: the second time counts. */
static void send_bytes(const struct sender *sender)
{
	static char bytes[16 * SIM_PAGE];

	for (size_t i = SIM_N_MAPPINGS; i-- > 0;) {
		const struct sim_mapping *mapping = &sim_mappings[i];

		for (uint64_t end = mapping->size; end > 0; end -= sizeof(bytes)) {
			uint64_t at = end - sizeof(bytes);
			struct sim_range range = { mapping->gpa + at, sizeof(bytes) };
			struct sim_head head = { .word = SIM_MEMORY, .n_payload = sizeof(range) };
			int n_times = end == mapping->size ? 2 : 1;

			if (is(sender, "outside"))
				range.gpa += UINT64_C(1) << 40;
			while (n_times-- > 0) {
				memset(bytes, 0x55, sizeof(bytes));
				for (size_t page = 0; n_times == 0 && page < 16; page++)
					sim_page(sender->seed, range.gpa + page * SIM_PAGE,
						 (uint64_t *)(bytes + page * SIM_PAGE));
				sim_send(sender->socket, &head, sizeof(head), -1);
				sim_send(sender->socket, &range, sizeof(range), -1);
				sim_send(sender->socket, bytes, sizeof(bytes), -1);
				if (!sim_receive(sender->socket, &head, sizeof(head), NULL) ||
				    head.word != 1)
					refused("Memory");
				head.word = SIM_MEMORY;
				head.n_payload = sizeof(range);
			}
		}
	}
}

/* Returns only if nothing of that kind was asked for. */
static void begin_badly(const struct sender *sender)
{
	struct sim_head head = { .word = SIM_START };

	if (is(sender, "silent")) {
		if (sim_receive(sender->socket, &head, sizeof(head), NULL))
			refused("in time");
		refused("without an answer");
	}
	if (is(sender, "nonsense")) {
		memset(&head, 'G', sizeof(head));
		sim_send(sender->socket, &head, sizeof(head), -1);
	} else if (is(sender, "version")) {
		head.version = 1;
		sim_send(sender->socket, &head, sizeof(head), -1);
	} else if (is(sender, "long-config")) {
		head = (struct sim_head){ .word = SIM_CONFIG, .n_payload = UINT64_C(1) << 60 };
		sim_send(sender->socket, &(struct sim_head){ .word = SIM_START }, sizeof(head), -1);
		sim_send(sender->socket, &head, sizeof(head), -1);
		if (!sim_receive(sender->socket, &head, sizeof(head), NULL))
			refused("without an answer");
	} else if (is(sender, "no-start")) {
		head.word = SIM_COMPLETE;
		sim_send(sender->socket, &head, sizeof(head), -1);
	} else if (is(sender, "half-head")) {
		sim_send(sender->socket, &head, sizeof(head) / 2, -1);
		exit(0);
	} else {
		return;
	}
	if (!sim_receive(sender->socket, &head, sizeof(head), NULL) || head.word != 2)
		refused("without an answer");
	refused("at the beginning");
}

static void send_texts(struct sender *sender)
{
	char *config = sim_config(sender->seed), *state = sim_state(sender->seed);

	if (is(sender, "bad-config"))
		config[1] = '}';
	ask(sender, SIM_CONFIG, config, strlen(config), -1, "Config");
	if (is(sender, "dies"))
		exit(0);
	if (is(sender, "dies-in-state")) {
		struct sim_head head = { .word = SIM_STATE, .n_payload = strlen(state) };

		sim_send(sender->socket, &head, sizeof(head), -1);
		sim_send(sender->socket, state, strlen(state) / 2, -1);
		exit(0);
	}
	ask(sender, SIM_STATE, state, strlen(state), -1, "State");
	free(config);
	free(state);
}

int sim_main_send(const char *path, uint64_t seed, bool is_inline, const char *how)
{
	struct sender sender = { .seed = seed, .how = how };
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	make_memory(&sender);
	sender.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(sender.socket, (struct sockaddr *)&address, sizeof(address)) < 0)
		sim_fail("%s: %s", path, strerror(errno));
	begin_badly(&sender);
	ask(&sender, SIM_START, NULL, 0, -1, "Start");
	if (!is_inline)
		send_files(&sender);
	send_texts(&sender);
	if (is_inline)
		send_bytes(&sender);
	if (is(&sender, "short-file") && ftruncate(sender.files[1], SIM_PAGE) < 0)
		sim_fail("not shorter");
	ask(&sender, is(&sender, "abandon") ? SIM_ABANDON : SIM_COMPLETE, NULL, 0, -1, "Complete");
	puts("done");
	return 0;
}
