/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM from its offer to its end.
 *
 * It was registered before it came to us, and its threads may wait already: so what exists counts as
 * its own, and in no failure is a range unregistered, for its absent pages would read zero then.
 */
#include "firecracker/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ufd/pager-dirty.h>
#include <ufd/pager.h>

#include "attach/client.h"
#include "attach/frontend.h"
#include "attach/plan.h"
#include "base/clock.h"
#include "base/files.h"
#include "firecracker/visitor.h"
#include "kernel/proc-maps.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "refusal.h"

#define NAME	 "vm"
#define CONSUMER "vm"

struct vm {
	struct ufd_pager *pager;
	struct ufd_pager_guest *guest;
	struct ufd_source *source;
	int pidfd; /* owned */
	pid_t pid;
	uint64_t started_ns;
	uint64_t n_told[UFD_EVENT_FOREIGN_WRITE + 1]; /* of each kind */
};

/* ---- what happens ---- */

static void tell_source(const struct ufd_event *event, const char *what)
{
	if (event->path)
		printf("offset %llu of memory `%s` %s: byte %llu of %s\n",
		       (unsigned long long)event->offset, event->memory, what,
		       (unsigned long long)event->path_offset, event->path);
	else
		printf("offset %llu of memory `%s` %s\n", (unsigned long long)event->offset,
		       event->memory ? event->memory : "?", what);
}

static void tell(const struct ufd_event *event)
{
	switch (event->kind) {
	case UFD_EVENT_COMPLETED:
		printf("all of it is there; discards are still served\n");
		break;
	case UFD_EVENT_STALLED:
		printf("the VM waits for a page, which is tried again: %s\n",
		       strerror((int)event->value));
		tell_source(event, "cannot be had");
		break;
	case UFD_EVENT_RECOVERED:
		printf("pages that the VM waited for are there now\n");
		break;
	case UFD_EVENT_SOURCE_CHANGED:
		tell_source(event, "is not filled: the memory file was changed");
		break;
	case UFD_EVENT_EXHAUSTED:
		tell_source(event, "found no memory, or no huge page; it is tried again");
		break;
	case UFD_EVENT_HELD:
		printf("filling is held back: %lld MiB are left to the memory limit\n",
		       (long long)event->value);
		break;
	case UFD_EVENT_RELEASED:
		printf("there is room again: filling goes on\n");
		break;
	case UFD_EVENT_DISCARD_UNANNOUNCED:
		tell_source(event, "vanished without a word; it reads zero");
		break;
	case UFD_EVENT_FOREIGN_MAPPER:
		printf("process %lld maps the VM's memory, too: what it reads of absent pages is "
		       "wrong\n",
		       (long long)event->value);
		break;
	default:
		break;
	}
}

/* The first of a kind, then ever fewer. */
static void on_event(struct ufd_pager_guest *guest, const struct ufd_event *event, void *userdata)
{
	struct vm *vm = userdata;
	uint64_t n = event->kind <= UFD_EVENT_FOREIGN_WRITE ? ++vm->n_told[event->kind] : 0;

	if ((n & (n - 1)) == 0)
		tell(event);
}

void vm_dispatch(struct vm *vm)
{
	(void)ufd_pager_dispatch(vm->pager);
}

int vm_events_fd(const struct vm *vm)
{
	return ufd_pager_fd(vm->pager);
}

int vm_pidfd(const struct vm *vm)
{
	return vm->pidfd;
}

/* ---- its beginning ---- */

static int new_engine(struct vm *vm, const struct vm_options *options, int uffd,
		      struct refusal *refusal)
{
	UFD_OPTS(ufd_pager_opts, pager_opts, .on_event = on_event, .userdata = vm);
	UFD_OPTS(ufd_pager_guest_opts, opts, .no_background = options->has_no_background,
		 .populated = UFD_POPULATED_KEEP);
	const char *why = NULL;
	uint64_t features = 0;
	int r;

	r = ufd_pager_new(&vm->pager, &pager_opts);
	if (r < 0)
		return refusal_set_errno(refusal, r, "the engine: %s", strerror(-r));
	(void)uffd_inspect(uffd, &features);
	opts.track = features & UFFD_FEATURE_WP_ASYNC ? UFD_TRACK_SCAN : UFD_TRACK_WP;
	r = ufd_pager_guest_new(vm->pager, &vm->guest, NAME, &opts);
	if (r < 0)
		return refusal_set_errno(refusal, r, "the engine: %s", strerror(-r));
	r = ufd_source_open(&vm->source, "file:", options->file, &why);
	if (r < 0)
		return refusal_set(refusal, "io.ufd.guest.BadSource", NULL, "the memory file: %s",
				   why ? why : strerror(-r));
	return 0;
}

static int add_memory(struct vm *vm, const struct plan_memory *memory, uint32_t *ret,
		      struct refusal *refusal)
{
	UFD_OPTS(ufd_pager_memory_opts, opts, .name = memory->name,
		 .length = memory->end_bytes - memory->base_bytes, .page_bytes = memory->page_bytes,
		 .source = vm->source, .source_offset = memory->base_bytes,
		 .backing_offset = memory->base_bytes,
		 .backing = memory->backing >= 0 ? memory->backing : -1, .kind = memory->kind);
	int r = ufd_pager_guest_add_memory(vm->guest, &opts, ret);

	if (r == -ERANGE)
		return refusal_set(refusal, "io.ufd.guest.BadSource", NULL,
				   "the memory file is shorter than the VM's memory, %llu bytes",
				   (unsigned long long)memory->end_bytes);
	if (r < 0)
		return refusal_set_errno(refusal, r, "memory `%s`: %s", memory->name, strerror(-r));
	return 0;
}

static int add_mappings(struct vm *vm, const struct plan *plan, uint32_t mapper,
			const uint32_t *memories, struct refusal *refusal)
{
	int r;

	for (size_t i = 0; i < plan->n_mappings; i++) {
		const struct plan_mapping *mapping = &plan->mappings[i];
		const struct plan_memory *memory = &plan->memories[mapping->memory];

		r = ufd_pager_guest_add_mapping(vm->guest, mapper, memories[mapping->memory],
						mapping->address, mapping->length_bytes,
						mapping->offset_bytes - memory->base_bytes, NULL);
		if (r < 0)
			return plan_refuse_mapping(mapping, memory->name, vm->pid, r,
						   mapping->offset_bytes, refusal);
		r = i == 0 ? plan_prove_owner(mapping, vm->pid, refusal) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_all(struct vm *vm, const struct plan *plan, int uffd, struct refusal *refusal)
{
	uint32_t memories[FRONTEND_MAX_REGIONS], mapper;
	int r;

	r = ufd_pager_guest_add_mapper(vm->guest, uffd, vm->pidfd, -1, &mapper);
	if (r < 0)
		return refusal_set_errno(refusal, r, "process %d: %s", vm->pid, strerror(-r));
	for (size_t i = 0; i < plan->n_memories; i++) {
		r = add_memory(vm, &plan->memories[i], &memories[i], refusal);
		if (r < 0)
			return r;
	}
	return add_mappings(vm, plan, mapper, memories, refusal);
}

/*
 * A VMM that registered for write-protection looks for pages that are not protected, and takes them
 * for written: so ours are filled protected, as a consumer makes the engine do.
 */
static int keep_protected(struct vm *vm, struct refusal *refusal)
{
	int r = ufd_pager_guest_dirty_start(vm->guest, CONSUMER);

	if (r == 0)
		return 0;
	return refusal_set(refusal, "io.ufd.dirty.NotTrackable", NULL,
			   "what the VM writes cannot be tracked: %s",
			   r == -EOPNOTSUPP ? ufd_pager_guest_dirty_refusal(vm->guest)
					    : strerror(-r));
}

static bool is_write_protected(const struct vm *vm, const struct plan *plan)
{
	struct proc_map_flags flags = {};

	return proc_map_flags(vm->pid, (struct hva){ plan->mappings[0].address }, &flags) == 0 &&
	       flags.is_uffd_wp;
}

static int begin(struct vm *vm, const struct vm_options *options, const struct plan *plan, int uffd,
		 struct refusal *refusal)
{
	bool has_wp = is_write_protected(vm, plan); /* before we register anything */
	int r;

	r = client_check_uffd(uffd, 0, false, refusal);
	if (r == 0)
		r = plan_check_maps(plan, vm->pid, refusal);
	if (r == 0)
		r = new_engine(vm, options, uffd, refusal);
	if (r == 0)
		r = add_all(vm, plan, uffd, refusal);
	if (r == 0 && has_wp)
		r = keep_protected(vm, refusal);
	if (r < 0)
		return r;
	r = ufd_pager_guest_start(vm->guest);
	if (r == -EUSERS)
		return refusal_set(refusal, "io.ufd.guest.OtherMappers", NULL,
				   "another process maps the VM's memory, and would read absent "
				   "pages as zeros");
	return r < 0 ? refusal_set_errno(refusal, r, "the start: %s", strerror(-r)) : 0;
}

int vm_start(struct vm **ret, const struct vm_options *options, const struct visitor *visitor,
	     const struct frontend_offer *offer, struct refusal *refusal)
{
	_cleanup_(vm_freep) struct vm *vm = calloc(1, sizeof(*vm));
	struct frontend_input input = visitor_input(visitor);
	struct plan plan = {};
	int r;

	if (!vm)
		return refusal_set_errno(refusal, -ENOMEM, "no memory");
	vm->pid = visitor->pid;
	vm->started_ns = clock_now_ns();
	vm->pidfd = -EBADF;
	r = fd_duplicate(&vm->pidfd, visitor->pidfd);
	if (r < 0)
		return refusal_set_errno(refusal, r, "%s", strerror(-r));
	r = frontend_plan(offer, &input, "file:", options->file, &plan, refusal);
	if (r == 0)
		r = begin(vm, options, &plan, visitor->fds[offer->uffd], refusal);
	plan_done(&plan);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(vm);
	return 0;
}

/* ---- its end ---- */

int vm_finish(struct vm *vm, uint64_t timeout_ns)
{
	int r = ufd_pager_guest_finish(vm->guest, timeout_ns);

	if (r == -ETIMEDOUT)
		return VM_FILLING;
	if (r == 0)
		vm->guest = ufd_pager_guest_free(vm->guest);
	return r;
}

void vm_say_counts(const struct vm *vm)
{
	UFD_OPTS(ufd_guest_stats, stats);
	uint64_t ms = (clock_now_ns() - vm->started_ns) / NSEC_PER_MSEC;

	if (!vm->guest || ufd_pager_guest_stats(vm->guest, &stats) < 0)
		return;
	printf("served for %llu.%03llu s: %llu faults, half of them within %llu us, the slowest in "
	       "%llu us; %llu KiB filled, %llu discards\n",
	       (unsigned long long)(ms / 1000), (unsigned long long)(ms % 1000),
	       (unsigned long long)(stats.faults_missing + stats.faults_wp),
	       (unsigned long long)(stats.fault_p50_ns / NSEC_PER_USEC),
	       (unsigned long long)(stats.fault_max_ns / NSEC_PER_USEC),
	       (unsigned long long)(stats.filled_bytes / KIB), (unsigned long long)stats.removes);
}

struct vm *vm_free(struct vm *vm)
{
	if (!vm)
		return NULL;
	ufd_pager_guest_leave(vm->guest);
	ufd_pager_free(vm->pager);
	ufd_source_unref(vm->source);
	closep(&vm->pidfd);
	free(vm);
	return NULL;
}
