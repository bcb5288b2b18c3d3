/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A Cloud Hypervisor without virtual CPUs: sends its guest, or receives one and runs it.
 *
 *	sim-cloud-hypervisor send SOCKET SEED [inline] [HOW]
 *	sim-cloud-hypervisor receive SOCKET SEED [inline|missing-only] [hold=N] [HOW]
 *
 * HOW is what goes wrong; see sim-ch-send.c and sim-ch-receive.c. Exit status: 0 done, 3 refused by the other
 * side, 4 anything that must not happen.
 */
#include "support/sim-ch.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

const struct sim_mapping sim_mappings[SIM_N_MAPPINGS] = {
	{ .slot = 0, .file = 0, .gpa = 0, .size = 3 * MIB, .file_offset = 0 },
	{ .slot = 7, .file = 0, .gpa = 4 * GIB, .size = 1 * MIB, .file_offset = 3 * MIB },
	{ .slot = 2, .file = 1, .gpa = 5 * GIB, .size = 2 * MIB, .file_offset = 0 },
};

void sim_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	_exit(4);
}

/* One page in three is zeros, and a whole stretch of each mapping is. */
void sim_page(uint64_t seed, uint64_t gpa, uint64_t words[SIM_PAGE / 8])
{
	uint64_t page = gpa / SIM_PAGE;

	memset(words, 0, SIM_PAGE);
	if ((page * UINT64_C(0x9e3779b97f4a7c15) >> 40) % 3 == seed % 3 || page % 256 >= 224)
		return;
	for (size_t i = 0; i < SIM_PAGE / 8; i += 8)
		words[i] = (page << 16 | i) * UINT64_C(0xbf58476d1ce4e5b9) + seed;
}

/* A number that no int64_t holds is among what nobody but Cloud Hypervisor reads. */
char *sim_config(uint64_t seed)
{
	char *text = NULL, *list = NULL;

	for (size_t i = 0; i < SIM_N_MAPPINGS; i++) {
		const struct sim_mapping *mapping = &sim_mappings[i];
		char *before = list;

		if (asprintf(&list,
			     "%s%s{\"slot\":%u,\"gpa\":%llu,\"size\":%llu,\"zone_id\":\"mem%d\","
			     "\"virtio_mem\":false,\"file_offset\":%llu}",
			     before ? before : "", before ? "," : "", mapping->slot,
			     (unsigned long long)mapping->gpa, (unsigned long long)mapping->size,
			     mapping->file, (unsigned long long)mapping->file_offset) < 0)
			sim_fail("no memory");
		free(before);
	}
	if (asprintf(&text,
		     "{\"vm_config\":{\"seed\":%llu,\"mask\":18446744073709551615},"
		     "\"common_cpuid\":[{\"function\":1}],\"memory_manager_data\":{"
		     "\"memory_ranges\":[],\"guest_ram_mappings\":[%s],\"start\":4294967296}}",
		     (unsigned long long)seed, list) < 0)
		sim_fail("no memory");
	free(list);
	return text;
}

/* Longer than a socket's buffer. */
char *sim_state(uint64_t seed)
{
	size_t n_filler = 600000;
	char *filler = malloc(n_filler + 1), *text = NULL;

	memset(filler, 'x', n_filler);
	filler[n_filler] = '\0';
	if (asprintf(&text, "{\"devices\":%llu,\"filler\":\"%s\"}", (unsigned long long)seed,
		     filler) < 0)
		sim_fail("no memory");
	free(filler);
	return text;
}

/* ---- the wire ---- */

union control {
	struct cmsghdr head;
	char bytes[CMSG_SPACE(sizeof(int))];
};

void sim_send(int socket, const void *bytes, size_t n_bytes, int fd)
{
	while (n_bytes > 0) {
		struct iovec part = { .iov_base = (void *)bytes, .iov_len = n_bytes };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
		union control control = {};
		ssize_t n;

		if (fd >= 0) {
			message.msg_control = &control;
			message.msg_controllen = sizeof(control);
			control.head.cmsg_level = SOL_SOCKET;
			control.head.cmsg_type = SCM_RIGHTS;
			control.head.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.head), &fd, sizeof(int));
		}
		n = sendmsg(socket, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			sim_fail("sending: %s", strerror(errno));
		fd = -1;
		bytes = (const char *)bytes + n;
		n_bytes -= (size_t)n;
	}
}

bool sim_receive(int socket, void *bytes, size_t n_bytes, int *ret_fd)
{
	bool is_begun = false;

	while (n_bytes > 0) {
		struct iovec part = { .iov_base = bytes, .iov_len = n_bytes };
		union control control = {};
		struct msghdr message = { .msg_iov = &part,
					  .msg_iovlen = 1,
					  .msg_control = &control,
					  .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			sim_fail("receiving: %s", strerror(errno));
		if (n == 0 && is_begun)
			sim_fail("the connection ended in the middle of a message");
		if (n == 0)
			return false;
		if (CMSG_FIRSTHDR(&message) && ret_fd)
			memcpy(ret_fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
		is_begun = true;
		bytes = (char *)bytes + n;
		n_bytes -= (size_t)n;
	}
	return true;
}

uint16_t sim_ask(int socket, uint16_t command, const void *payload, size_t n_payload, int fd)
{
	struct sim_head head = { .word = command, .n_payload = n_payload };

	sim_send(socket, &head, sizeof(head), -1);
	sim_send(socket, payload, n_payload, fd);
	if (!sim_receive(socket, &head, sizeof(head), NULL))
		return 0;
	if (head.n_payload)
		sim_fail("an answer with %llu bytes", (unsigned long long)head.n_payload);
	return head.word;
}

int main(int argc, char **argv)
{
	struct sim_receiver receiver = {};
	bool is_inline = false;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 4)
		sim_fail("send|receive SOCKET SEED ...");
	receiver.path = argv[2];
	receiver.seed = strtoull(argv[3], NULL, 0);
	for (int i = 4; i < argc; i++) {
		if (strcmp(argv[i], "inline") == 0)
			receiver.is_inline = is_inline = true;
		else if (strcmp(argv[i], "missing-only") == 0)
			receiver.is_missing_only = true;
		else if (strncmp(argv[i], "hold=", 5) == 0)
			receiver.n_before_hold = strtoull(argv[i] + 5, NULL, 0);
		else
			receiver.how = argv[i];
	}
	if (strcmp(argv[1], "send") == 0)
		return sim_main_send(receiver.path, receiver.seed, is_inline, receiver.how);
	return sim_main_receive(&receiver);
}
