/* The least work that a server can do and still deliver: what the kernel alone costs. It checks
 * nothing, has no users, and never closes a slow connection. `make bench` runs it beside fws.
 *
 *   floor write PORT          a topic server, one send() for each delivery
 *   floor coalesce PORT       the same, one send() for all messages of one read
 *   floor browsers PORT       sends browsers the same answers as fws, whatever they send
 *   floor control PORT        answers `success` to every control frame, unread
 *
 * Topics are `tNNNNNN`; text messages are `sub TOPIC`, answered `ok`, and `pub TOPIC DATA`. One
 * thread, edge-triggered epoll, one read buffer. A full socket buffer ends the program: the load
 * generator must read fast enough. Needs nothing but a C library.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 16, PEERS = 1 << 20, TOPICS = 1 << 20, OUT_BYTES = 1 << 22 };

/* The sockets subscribed to a topic; most topics have one. */
struct topic {
    int first;
    int count, room;
    int *more;
};

/* One socket: whether it has upgraded to WebSocket, the start of an incomplete frame, and its topic
 * and index in it. */
struct peer {
    unsigned char is_open;
    unsigned kept_bytes;
    unsigned char *kept;
    struct topic *topic;
    int at;
};

static struct peer peers[PEERS];
static struct topic *topics;
static unsigned char buffer[2 * READ_BYTES];
/* Queued frames for the topic of the last message, and where each of them ends. */
static unsigned char out[OUT_BYTES];
static size_t out_bytes;
static size_t ends[READ_BYTES];
static size_t frames;
static struct topic *out_topic;
static enum { WRITE, COALESCE, BROWSERS, CONTROL } mode;

static const char UPGRADED[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char SUCCESS[] = "\x10\0\0\0{\"success\":true}";
static const char OK[] = "\x81\x02ok";
/* As long as the answers of fws: a cid is a UUID. */
static const char AUTH_OK[] =
    "\x81\x49" "{\"event\":\"auth ok\",\"data\":{\"cid\":\"00000000-0000-4000-8000-000000000000\"}}";
static const char SUBSCRIBED[] =
    "\x81\x35" "{\"event\":\"callBackAnswer\",\"clb\":1,\"data\":{\"ok\":true}}";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void say(int fd, const void *bytes, size_t count) {
    ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
    if (sent == (ssize_t)count || (sent < 0 && (errno == EPIPE || errno == ECONNRESET))) return;
    die("a socket takes no more");
}

static void deliver(int fd) {
    if (mode == COALESCE) {
        say(fd, out, out_bytes);
        return;
    }
    size_t start = 0;
    for (size_t i = 0; i < frames; i++) {
        say(fd, out + start, ends[i] - start);
        start = ends[i];
    }
}

/* Sends the queued frames. */
static void flush(void) {
    if (!out_topic || !frames) return;
    if (out_topic->count == 1) deliver(out_topic->first);
    else
        for (int i = 0; i < out_topic->count; i++) deliver(out_topic->more[i]);
    frames = out_bytes = 0;
}

static struct topic *topic(const unsigned char *name) {
    int number = 0;
    for (int i = 1; i < 7; i++) number = number * 10 + (name[i] - '0');
    return &topics[(unsigned)number % TOPICS];
}

static void subscribe(int fd, struct topic *t) {
    if (peers[fd].topic) return;
    if (t->count == 0) t->first = fd;
    if (t->count >= 1 && t->count >= t->room) {
        int had_none = !t->more;
        t->room = t->room ? 2 * t->room : 4;
        t->more = realloc(t->more, (size_t)t->room * sizeof(int));
        if (!t->more) die("realloc");
        if (had_none) t->more[0] = t->first;
    }
    if (t->more) t->more[t->count] = fd;
    peers[fd].topic = t;
    peers[fd].at = t->count++;
}

/* Unsubscribes: the topic's last socket takes the place of the leaving one. */
static void leave(struct peer *p) {
    struct topic *t = p->topic;
    if (!t) return;
    int last = t->more ? t->more[t->count - 1] : t->first;
    if (t->more) t->more[p->at] = last;
    if (p->at == 0) t->first = last;
    peers[last].at = p->at;
    t->count--;
    p->topic = NULL;
}

/* Handles a message: `sub` or `pub`, or one of a browser. */
static void heard(int fd, const unsigned char *text, size_t bytes) {
    if (mode == BROWSERS) {
        /* {"event":"auth… or {"event":"subscribe… */
        int is_auth = bytes > 10 && text[10] == 'a';
        size_t count = is_auth ? sizeof AUTH_OK - 1 : sizeof SUBSCRIBED - 1;
        memcpy(out + out_bytes, is_auth ? AUTH_OK : SUBSCRIBED, count);
        out_bytes += count;
        return;
    }
    if (bytes < 11) return;
    struct topic *t = topic(text + 4);
    if (text[0] == 's') {
        subscribe(fd, t);
        say(fd, OK, sizeof OK - 1);
        return;
    }
    size_t data = bytes - 12;
    if (out_topic != t || out_bytes + data + 4 > OUT_BYTES) flush();
    out_topic = t;
    out[out_bytes++] = 0x81;
    if (data < 126) out[out_bytes++] = (unsigned char)data;
    else {
        out[out_bytes++] = 126;
        out[out_bytes++] = (unsigned char)(data >> 8);
        out[out_bytes++] = (unsigned char)data;
    }
    memcpy(out + out_bytes, text + 12, data);
    out_bytes += data;
    ends[frames++] = out_bytes;
}

/* The size of the frame at the start of the input; 0 if it is incomplete. */
static size_t frame(int fd, unsigned char *in, size_t bytes) {
    if (bytes < 6) return 0;
    size_t length = in[1] & 0x7f, head = 6;
    if (length == 126) {
        length = (size_t)in[2] << 8 | in[3];
        head = 8;
    }
    if (length == 127 || bytes < head + length) return length == 127 ? bytes : 0;
    unsigned char *mask = in + head - 4, *text = in + head;
    uint32_t all;
    memcpy(&all, mask, 4);
    if (all)
        for (size_t i = 0; i < length; i++) text[i] ^= mask[i & 3];
    if ((in[0] & 0x0f) < 8) heard(fd, text, length);
    return head + length;
}

/* Handles input; returns how much of it was consumed. */
static size_t take(int fd, struct peer *p, unsigned char *in, size_t bytes) {
    size_t at = 0;
    if (mode == CONTROL) {
        static unsigned char replies[READ_BYTES * 8];
        size_t filled = 0;
        for (;;) {
            uint32_t length;
            if (bytes - at < 4) break;
            memcpy(&length, in + at, 4);
            if (bytes - at < (size_t)length + 5) break;
            at += (size_t)length + 5;
            memcpy(replies + filled, SUCCESS, sizeof SUCCESS);
            filled += sizeof SUCCESS;
        }
        if (filled) say(fd, replies, filled);
        return at;
    }
    if (!p->is_open) {
        unsigned char *end = memmem(in, bytes, "\r\n\r\n", 4);
        if (!end) return 0;
        p->is_open = 1;
        say(fd, UPGRADED, sizeof UPGRADED - 1);
        at = (size_t)(end - in) + 4;
    }
    for (size_t used; at < bytes && (used = frame(fd, in + at, bytes - at)); at += used) {}
    if (mode == BROWSERS && out_bytes) {
        say(fd, out, out_bytes);
        out_bytes = 0;
    }
    return at;
}

/* Reads until the socket is empty. Returns whether the peer is still connected. */
static int hear(int fd) {
    struct peer *p = &peers[fd];
    for (;;) {
        memcpy(buffer, p->kept, p->kept_bytes);
        ssize_t got = recv(fd, buffer + p->kept_bytes, READ_BYTES, 0);
        if (got == 0) return 0;
        if (got < 0) return errno == EAGAIN;
        size_t filled = p->kept_bytes + (size_t)got;
        size_t used = take(fd, p, buffer, filled), left = filled - used;
        if (left > READ_BYTES) return 0;
        if (left) {
            p->kept = realloc(p->kept, left);
            if (!p->kept) die("realloc");
            memcpy(p->kept, buffer + used, left);
        } else if (p->kept) {
            free(p->kept);
            p->kept = NULL;
        }
        p->kept_bytes = (unsigned)left;
        flush();
        if (got < READ_BYTES) return 1;
    }
}

int main(int argc, char **argv) {
    static const char *const modes[] = {"write", "coalesce", "browsers", "control"};
    int found = -1;
    for (int i = 0; argc == 3 && i < 4; i++)
        if (!strcmp(argv[1], modes[i])) found = i;
    if (found < 0) {
        fprintf(stderr, "usage: floor write|coalesce|browsers|control PORT\n");
        return 2;
    }
    mode = found;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    topics = calloc(TOPICS, sizeof *topics);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(door, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!topics || bind(door, (struct sockaddr *)&at, sizeof at) || listen(door, 4096)) die("listen");
    socklen_t length = sizeof at;
    getsockname(door, (struct sockaddr *)&at, &length);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = door}, events[1024];
    epoll_ctl(poll, EPOLL_CTL_ADD, door, &event);
    for (;;) {
        int count = epoll_wait(poll, events, 1024, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == door) {
                for (int n = 0; n < 64; n++) {
                    int peer = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (peer < 0) break;
                    if (peer >= PEERS) die("descriptor");
                    memset(&peers[peer], 0, sizeof peers[peer]);
                    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
                    event.data.fd = peer;
                    epoll_ctl(poll, EPOLL_CTL_ADD, peer, &event);
                }
            } else if (!hear(fd) || events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
                leave(&peers[fd]);
                free(peers[fd].kept);
                peers[fd].kept = NULL;
                close(fd);
            }
        }
    }
}
