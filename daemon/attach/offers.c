/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Offers: a list, and its lock. */
#include "attach/offers.h"

#include <errno.h>
#include <stdlib.h>

#include "base/files.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"

struct offer {
	LIST_ENTRY(offer) offer_link;
	const void *owner;
	pid_t pid;
	enum front_end front_end;
	int uffd; /* owned */
};

void offers_init(struct offers *offers)
{
	pthread_mutex_init(&offers->lock, NULL);
	LIST_INIT(&offers->offer_list);
}

static void remove_locked(struct offer *offer)
{
	LIST_REMOVE(offer, offer_link);
	closep(&offer->uffd);
	free(offer);
}

static struct offer *find_locked(struct offers *offers, const void *owner)
{
	struct offer *offer;

	LIST_FOREACH(offer, &offers->offer_list, offer_link)
	if (offer->owner == owner)
		return offer;
	return NULL;
}

void offers_done(struct offers *offers)
{
	while (!LIST_EMPTY(&offers->offer_list))
		remove_locked(LIST_FIRST(&offers->offer_list));
	pthread_mutex_destroy(&offers->lock);
}

void offers_forget(struct offers *offers, const void *owner)
{
	struct offer *offer;

	pthread_mutex_lock(&offers->lock);
	offer = find_locked(offers, owner);
	if (offer)
		remove_locked(offer);
	pthread_mutex_unlock(&offers->lock);
}

int offers_put(struct offers *offers, const void *owner, pid_t pid, int uffd,
	       enum front_end front_end)
{
	struct offer *offer = calloc(1, sizeof(*offer));
	int r;

	if (!offer)
		return -ENOMEM;
	r = fd_duplicate(&offer->uffd, uffd);
	if (r < 0) {
		free(offer);
		return r;
	}
	offer->owner = owner;
	offer->pid = pid;
	offer->front_end = front_end;
	offers_forget(offers, owner);
	pthread_mutex_lock(&offers->lock);
	LIST_INSERT_HEAD(&offers->offer_list, offer, offer_link);
	pthread_mutex_unlock(&offers->lock);
	return 0;
}

static bool is_fitting(const struct offer *offer, bool is_wp_sync)
{
	uint64_t features = 0;

	return uffd_inspect(offer->uffd, &features) == 0 &&
	       !(is_wp_sync && (features & UFFD_FEATURE_WP_ASYNC));
}

int offers_find(struct offers *offers, pid_t pid, bool is_wp_sync, int *ret_uffd,
		enum front_end *ret_front_end)
{
	struct offer *offer;
	int r = -ENOENT;

	pthread_mutex_lock(&offers->lock);
	LIST_FOREACH(offer, &offers->offer_list, offer_link)
	{
		if (offer->pid != pid || !is_fitting(offer, is_wp_sync))
			continue;
		r = fd_duplicate(ret_uffd, offer->uffd);
		*ret_front_end = offer->front_end;
		break;
	}
	pthread_mutex_unlock(&offers->lock);
	return r;
}
