/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the methods work with: put together by daemon.c, or by a test. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "wire/idl.h"

struct call_job;
struct config;
struct drain;
struct event_base;
struct handoffs;
struct jobs;
struct method;
struct offloads;
struct registry;
struct server;
struct store;
struct upgrade;
struct upgrading;
struct watch;

/* Readable. */
struct interface {
	const char *text;
	struct idl *idl; /* owned */
	const struct method *methods;
};

#define CONTROL_INTERFACES 5

/* Readable. All on the loop. */
struct control {
	struct event_base *base;
	const struct config *config;
	struct jobs *jobs;		     /* calls at work on threads */
	LIST_HEAD(, call_job) call_job_list; /* theirs; private to call-job.c */
	struct registry *registry;	     /* the guests */
	struct server *server;		     /* owned */
	struct watch *watch;		     /* owned; who follows events */
	struct drain *drain;		     /* owned */
	struct handoffs *handoffs;   /* sockets at which VMMs leave memory; set by the owner */
	struct offloads *offloads;   /* restored Cloud Hypervisors; set by the owner */
	struct store *store;	     /* where guests outlive us; set by the owner */
	uint64_t n_adopted;	     /* guests taken over at the start; set by the owner */
	uint64_t adopted_ns;	     /* from our start until they were served; likewise */
	struct upgrade *upgrade;     /* which program we are; set by the owner */
	struct upgrading *upgrading; /* NULL: none is under way */
	struct interface interfaces[CONTROL_INTERFACES];
	uid_t own_uid;
	uint64_t started_ns; /* CLOCK_REALTIME */
};

/* The borrowed things outlive it. Return: 0 or -ENOMEM; -EINVAL if an interface file is broken. */
int control_new(struct control **ret, struct event_base *base, const struct config *config,
		struct jobs *jobs, struct registry *registry);

/* Drops every connection. */
struct control *control_free(struct control *control);
DEFINE_CLEANUP(struct control, control_free)

/* NULL if there is none of this name. */
const struct interface *control_find_interface(const struct control *control, const char *name,
					       size_t n_name);

/* The dispatch table on stdout, a full name a line. */
void control_print_methods(void);
