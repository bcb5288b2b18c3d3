/* SPDX-License-Identifier: MIT */
/* A sentence of the calling thread. */
#include "base/sentence.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define SENTENCE_BYTES 8192

struct sentences {
	unsigned int next;
	char texts[2][SENTENCE_BYTES];
};

static pthread_key_t key;
static int key_error = -1;

static void make_key(void)
{
	key_error = pthread_key_create(&key, free);
}

static struct sentences *of_thread(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct sentences *sentences;

	pthread_once(&once, make_key);
	if (key_error)
		return NULL;
	sentences = pthread_getspecific(key);
	if (sentences)
		return sentences;
	sentences = calloc(1, sizeof(*sentences));
	if (sentences && pthread_setspecific(key, sentences)) {
		free(sentences);
		return NULL;
	}
	return sentences;
}

const char *sentence_make(const char *format, va_list args)
{
	struct sentences *sentences = of_thread();
	char *text;

	if (!sentences)
		return "there is no memory left to say what is wrong";
	text = sentences->texts[sentences->next];
	sentences->next ^= 1;
	vsnprintf(text, SENTENCE_BYTES, format, args);
	return text;
}
