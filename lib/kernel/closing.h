/* SPDX-License-Identifier: MIT */
/*
 * Closing what strangers gave us.
 *
 * To close a file is to tell its file system, and a FUSE server may take for ever to answer: whoever
 * passes us such an fd could stop the thread that closes it, and even our end, since a dying process
 * closes what it holds and cannot be killed twice. So such files are closed by threads of their own;
 * SIGKILL ends those.
 */
#pragma once

/* Close @fd, here if that cannot wait for anybody. Negative is no fd. Context: any; does not block. */
void closing_close(int fd);
