/* Waiting: blocked calls, poll, select, epoll, signals, threads, and the end of the engine. */
#include "check.h"

#include <sys/types.h>

static void poll_both_worlds(void) {
    int pair[2], pipes[2];
    join_pair(pair);
    CHECK(pipe(pipes) == 0);
    struct pollfd fds[] = {{pair[0], POLLIN, 0}, {pipes[0], POLLIN, 0}, {-1, POLLIN, 7}, {pair[1], POLLOUT, 0}};
    CHECK(poll(fds, 4, -1) == 1);
    CHECK(fds[0].revents == 0 && fds[1].revents == 0 && fds[2].revents == 0 && fds[3].revents == POLLOUT);
    fds[3].fd = -1;
    CHECK(poll(fds, 4, 0) == 0);
    pid_t child = fork();
    if (child == 0) {
        nap(50);
        write_all(pipes[1], "p", 1);
        _exit(0);
    }
    CHECK(poll(fds, 4, 10000) == 1 && fds[1].revents == POLLIN && fds[0].revents == 0);
    reap(child);
    child = fork();
    if (child == 0) {
        nap(50);
        write_all(pair[1], "s", 1);
        _exit(0);
    }
    fds[1].fd = -1;
    CHECK(poll(fds, 4, 10000) == 1 && fds[0].revents == POLLIN);
    fds[1].fd = pipes[0];
    CHECK(poll(fds, 2, 10000) == 2);
    reap(child);
    fds[1].fd = 4567;
    CHECK(poll(fds, 2, 0) == 2 && fds[1].revents == POLLNVAL);
    /* More records than fit on a small stack. */
    struct pollfd many[300];
    for (int i = 0; i < 300; i++)
        many[i] = (struct pollfd){i % 2 ? pair[0] : pipes[1], i % 2 ? POLLIN : POLLOUT, 0};
    CHECK(poll(many, 300, 10000) == 300);
}

static void select_both_worlds(void) {
    int pair[2], pipes[2];
    join_pair(pair);
    CHECK(pipe(pipes) == 0);
    fd_set read_set, write_set, except_set;
    FD_ZERO(&read_set);
    FD_ZERO(&write_set);
    FD_ZERO(&except_set);
    FD_SET(pair[0], &read_set);
    FD_SET(pipes[0], &read_set);
    FD_SET(pair[1], &write_set);
    FD_SET(pair[1], &except_set);
    int count = pipes[1] + 1;
    struct timeval time = {10, 0};
    CHECK(select(count, &read_set, &write_set, &except_set, &time) == 1);
    CHECK(FD_ISSET(pair[1], &write_set) && !FD_ISSET(pair[0], &read_set) && !FD_ISSET(pair[1], &except_set));
    CHECK(time.tv_sec <= 10);
    FD_ZERO(&read_set);
    FD_SET(pair[0], &read_set);
    time = (struct timeval){0, 20000};
    CHECK(select(count, &read_set, NULL, NULL, &time) == 0);
    CHECK(!FD_ISSET(pair[0], &read_set) && time.tv_sec == 0 && time.tv_usec == 0);
    write_all(pair[1], "x", 1);
    write_all(pipes[1], "x", 1);
    FD_SET(pair[0], &read_set);
    struct timespec fine = {10, 0};
    CHECK(pselect(count, &read_set, NULL, NULL, &fine, NULL) == 1 && FD_ISSET(pair[0], &read_set));
    FD_SET(pipes[0], &read_set);
    CHECK(select(count, &read_set, NULL, NULL, NULL) == 2);
    CHECK(close(pipes[0]) == 0);
    FAILS(select(count, &read_set, NULL, NULL, NULL), EBADF);
    time = (struct timeval){-1, 0};
    FAILS(select(pair[1] + 1, &write_set, NULL, NULL, &time), EINVAL);
}

static void add(int epfd, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.u64 = 0xabcd000000000000ull | fd};
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void modify(int epfd, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.u64 = 0xabcd000000000000ull | fd};
    CHECK(epoll_ctl(epfd, EPOLL_CTL_MOD, fd, &event) == 0);
}

/* Waits for exactly one event, and checks whose and which. */
static void expect(int epfd, int fd, unsigned events) {
    struct epoll_event got[4];
    CHECK(epoll_wait(epfd, got, 4, 10000) == 1);
    CHECK(got[0].data.u64 == (0xabcd000000000000ull | fd));
    CHECK(got[0].events == events);
}

static void expect_nothing(int epfd) {
    struct epoll_event got[4];
    CHECK(epoll_wait(epfd, got, 4, 0) == 0);
    CHECK(epoll_wait(epfd, got, 4, 20) == 0);
}

static void epoll_level(void) {
    int pair[2], epfd = epoll_create1(EPOLL_CLOEXEC);
    join_pair(pair);
    char buffer[8];
    add(epfd, pair[1], EPOLLIN);
    expect_nothing(epfd);
    write_all(pair[0], "abc", 3);
    expect(epfd, pair[1], EPOLLIN);
    expect(epfd, pair[1], EPOLLIN);
    CHECK(read(pair[1], buffer, 1) == 1);
    expect(epfd, pair[1], EPOLLIN);
    CHECK(read(pair[1], buffer, 8) == 2);
    expect_nothing(epfd);
    modify(epfd, pair[1], EPOLLIN | EPOLLOUT);
    expect(epfd, pair[1], EPOLLOUT);
    struct epoll_event event = {.events = EPOLLIN};
    FAILS(epoll_ctl(epfd, EPOLL_CTL_ADD, pair[1], &event), EEXIST);
    CHECK(epoll_ctl(epfd, EPOLL_CTL_DEL, pair[1], NULL) == 0);
    FAILS(epoll_ctl(epfd, EPOLL_CTL_DEL, pair[1], NULL), ENOENT);
    FAILS(epoll_ctl(epfd, EPOLL_CTL_MOD, pair[1], &event), ENOENT);
    FAILS(epoll_ctl(pair[0], EPOLL_CTL_ADD, pair[1], &event), EINVAL);
    FAILS(epoll_ctl(5432, EPOLL_CTL_ADD, pair[1], &event), EBADF);
    expect_nothing(epfd);
    add(epfd, pair[1], EPOLLIN | EPOLLRDHUP);
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    expect(epfd, pair[1], EPOLLIN | EPOLLRDHUP);
}

static void epoll_edge(void) {
    int pair[2], epfd = epoll_create(1);
    join_pair(pair);
    char buffer[8];
    add(epfd, pair[1], EPOLLIN | EPOLLOUT | EPOLLET);
    expect(epfd, pair[1], EPOLLOUT);
    expect_nothing(epfd);
    write_all(pair[0], "abc", 3);
    struct epoll_event got;
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.events & EPOLLIN);
    /* Reading a part makes no edge, more bytes do. */
    CHECK(read(pair[1], buffer, 1) == 1);
    expect_nothing(epfd);
    write_all(pair[0], "d", 1);
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.events & EPOLLIN);
    expect_nothing(epfd);
    /* MOD arms anew. */
    modify(epfd, pair[1], EPOLLIN | EPOLLET);
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.events == EPOLLIN);
    expect_nothing(epfd);
}

static void epoll_gives_everybody_a_turn(void) {
    int pairs[5][2], seen[5] = {0}, epfd = epoll_create1(0);
    for (int i = 0; i < 5; i++) {
        join_pair(pairs[i]);
        write_all(pairs[i][0], "x", 1);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        struct pollfd entry = {pairs[i][1], POLLIN, 0};
        CHECK(poll(&entry, 1, 10000) == 1);
        CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, pairs[i][1], &event) == 0);
    }
    /* All stay readable, and there is room for two at a time. */
    for (int round = 0; round < 10; round++) {
        struct epoll_event got[2];
        CHECK(epoll_wait(epfd, got, 2, 10000) == 2);
        seen[got[0].data.u32]++;
        seen[got[1].data.u32]++;
    }
    for (int i = 0; i < 5; i++)
        CHECK(seen[i] == 4);
    /* The kernel's members have their turn as well. */
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 99}, got;
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, eventfd(1, 0), &event) == 0);
    int kernel = 0;
    for (int round = 0; round < 10; round++) {
        CHECK(epoll_wait(epfd, &got, 1, 10000) == 1);
        kernel += got.data.u32 == 99;
    }
    CHECK(kernel > 0 && kernel < 10);
}

static void epoll_oneshot(void) {
    int pair[2], epfd = epoll_create1(0);
    join_pair(pair);
    add(epfd, pair[1], EPOLLIN | EPOLLONESHOT);
    write_all(pair[0], "abc", 3);
    expect(epfd, pair[1], EPOLLIN);
    expect_nothing(epfd);
    write_all(pair[0], "d", 1);
    expect_nothing(epfd);
    modify(epfd, pair[1], EPOLLIN | EPOLLONESHOT);
    expect(epfd, pair[1], EPOLLIN);
    expect_nothing(epfd);
    CHECK(epoll_ctl(epfd, EPOLL_CTL_DEL, pair[1], NULL) == 0);
}

static void epoll_both_worlds(void) {
    int pair[2], epfd = epoll_create1(0), event_fd = eventfd(0, 0);
    join_pair(pair);
    add(epfd, event_fd, EPOLLIN);
    add(epfd, pair[1], EPOLLIN);
    expect_nothing(epfd);
    pid_t child = fork();
    if (child == 0) {
        nap(50);
        CHECK(eventfd_write(event_fd, 1) == 0);
        _exit(0);
    }
    expect(epfd, event_fd, EPOLLIN);
    reap(child);
    eventfd_t value;
    CHECK(eventfd_read(event_fd, &value) == 0);
    child = fork();
    if (child == 0) {
        nap(50);
        write_all(pair[0], "x", 1);
        _exit(0);
    }
    expect(epfd, pair[1], EPOLLIN);
    reap(child);
    CHECK(eventfd_write(event_fd, 1) == 0);
    struct epoll_event got[4];
    CHECK(epoll_wait(epfd, got, 4, 10000) == 2);
    struct timespec time = {10, 0};
    CHECK(epoll_pwait2(epfd, got, 4, &time, NULL) == 2);
    sigset_t none;
    sigemptyset(&none);
    CHECK(epoll_pwait(epfd, got, 1, -1, &none) == 1);
    /* Room for one, taken by the kernel's member or by ours, whoever comes first. */
    for (int i = 0; i < 4; i++)
        CHECK(epoll_wait(epfd, got, 1, 10000) == 1);
    FAILS(epoll_wait(epfd, got, 0, 0), EINVAL);
    CHECK(epoll_ctl(epfd, EPOLL_CTL_DEL, event_fd, NULL) == 0);
    expect(epfd, pair[1], EPOLLIN);
}

static void epoll_nested(void) {
    int pair[2], inner = epoll_create1(0), outer = epoll_create1(0);
    join_pair(pair);
    add(inner, pair[1], EPOLLIN);
    add(outer, inner, EPOLLIN);
    expect_nothing(outer);
    struct pollfd entry = {inner, POLLIN, 0};
    CHECK(poll(&entry, 1, 20) == 0);
    pid_t child = fork();
    if (child == 0) {
        nap(50);
        write_all(pair[0], "x", 1);
        _exit(0);
    }
    expect(outer, inner, EPOLLIN);
    reap(child);
    expect(inner, pair[1], EPOLLIN);
    /* Ready before anybody waits. */
    CHECK(poll(&entry, 1, 10000) == 1 && entry.revents == POLLIN);
    expect(outer, inner, EPOLLIN);
    char buffer[8];
    CHECK(read(pair[1], buffer, 8) == 1);
    expect_nothing(inner);
    CHECK(poll(&entry, 1, 20) == 0);
    expect_nothing(outer);
}

struct sleeper {
    int epfd;
    int fd;
};

static void *sleep_in_epoll(void *argument) {
    struct sleeper *sleeper = argument;
    expect(sleeper->epfd, sleeper->fd, EPOLLIN);
    return NULL;
}

static void epoll_add_wakes_a_sleeper(void) {
    int pair[2], other[2], epfd = epoll_create1(0);
    join_pair(pair);
    join_pair(other);
    add(epfd, other[0], EPOLLIN);
    write_all(pair[0], "early", 5);
    struct pollfd entry = {pair[1], POLLIN, 0};
    CHECK(poll(&entry, 1, 10000) == 1);
    struct sleeper sleeper = {epfd, pair[1]};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, sleep_in_epoll, &sleeper) == 0);
    nap(100);
    add(epfd, pair[1], EPOLLIN | EPOLLONESHOT);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, sleep_in_epoll, &sleeper) == 0);
    nap(100);
    modify(epfd, pair[1], EPOLLIN | EPOLLONESHOT);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void epoll_forgets_closed_sockets(void) {
    int pair[2], epfd = epoll_create1(0);
    join_pair(pair);
    add(epfd, pair[1], EPOLLIN);
    write_all(pair[0], "x", 1);
    expect(epfd, pair[1], EPOLLIN);
    int copy = dup(pair[1]);
    CHECK(close(pair[1]) == 0);
    /* The open file description lives on, and so does its registration, as in the kernel. */
    struct epoll_event got;
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1);
    CHECK(close(copy) == 0);
    expect_nothing(epfd);
    /* A new socket under the old number is a stranger to the set. */
    int next[2];
    join_pair(next);
    write_all(next[0], "y", 1);
    expect_nothing(epfd);
    add(epfd, next[1], EPOLLIN);
    expect(epfd, next[1], EPOLLIN);
}

static void poll_times_out(void) {
    int pair[2];
    join_pair(pair);
    struct pollfd entry = {pair[0], POLLIN, 0};
    struct timespec time = {0, 30000000}, before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(ppoll(&entry, 1, &time, NULL) == 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long long elapsed = (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec;
    CHECK(elapsed >= 30000000);
    struct timespec wrong = {0, 2000000000};
    FAILS(ppoll(&entry, 1, &wrong, NULL), EINVAL);
}

static volatile sig_atomic_t signals;
static int handler_fd = -1;

static void on_signal(int signal) {
    (void)signal;
    signals++;
    if (handler_fd >= 0)
        CHECK(write(handler_fd, "h", 1) == 1);
}

static void catch(int signal, int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    CHECK(sigaction(signal, &action, NULL) == 0);
}

struct victim {
    pthread_t thread;
    int times;
    int pause;
};

static void *send_signals(void *argument) {
    struct victim *victim = argument;
    for (int i = 0; i < victim->times; i++) {
        nap(victim->pause);
        CHECK(pthread_kill(victim->thread, SIGUSR1) == 0);
    }
    return NULL;
}

static void interrupted_by_a_signal(void) {
    int pair[2], epfd = epoll_create1(0);
    join_pair(pair);
    catch(SIGUSR1, 0);
    struct victim victim = {pthread_self(), 1, 100};
    pthread_t sender;
#define INTERRUPTED(call)                                                                              \
    do {                                                                                               \
        CHECK(pthread_create(&sender, NULL, send_signals, &victim) == 0);                              \
        FAILS(call, EINTR);                                                                            \
        CHECK(pthread_join(sender, NULL) == 0);                                                        \
    } while (0)
    char buffer[8];
    INTERRUPTED(read(pair[0], buffer, 8));
    struct pollfd entry = {pair[0], POLLIN, 0};
    INTERRUPTED(poll(&entry, 1, -1));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pair[0], &set);
    INTERRUPTED(select(pair[0] + 1, &set, NULL, NULL, NULL));
    add(epfd, pair[0], EPOLLIN);
    struct epoll_event got;
    INTERRUPTED(epoll_wait(epfd, &got, 1, -1));
    int port, server = listener(&port);
    INTERRUPTED(accept(server, NULL, NULL));
    /* With a timeout even SA_RESTART does not restart. */
    catch(SIGUSR1, SA_RESTART);
    struct timeval time = {30, 0};
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    INTERRUPTED(read(pair[0], buffer, 8));
    CHECK(signals == 6);
    /* A signal that the mask of ppoll lets in. */
    sigset_t blocked, open;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &blocked, &open) == 0);
    CHECK(pthread_kill(pthread_self(), SIGUSR1) == 0);
    CHECK(signals == 6);
    FAILS(ppoll(&entry, 1, NULL, &open), EINTR);
    CHECK(signals == 7);
}

static void *write_later(void *argument) {
    nap(300);
    write_all(*(int *)argument, "late", 4);
    return NULL;
}

static void restarted_after_a_signal(void) {
    int pair[2];
    join_pair(pair);
    catch(SIGUSR1, SA_RESTART);
    struct victim victim = {pthread_self(), 2, 50};
    pthread_t sender, writer;
    CHECK(pthread_create(&sender, NULL, send_signals, &victim) == 0);
    CHECK(pthread_create(&writer, NULL, write_later, &pair[1]) == 0);
    char buffer[8];
    CHECK(read(pair[0], buffer, 8) == 4);
    CHECK(signals == 2);
    CHECK(pthread_join(sender, NULL) == 0 && pthread_join(writer, NULL) == 0);
}

static void writes_from_a_signal_handler(void) {
    int pair[2];
    join_pair(pair);
    handler_fd = pair[0];
    catch(SIGUSR1, SA_RESTART);
    struct victim victim = {pthread_self(), 200, 1};
    pthread_t sender;
    CHECK(pthread_create(&sender, NULL, send_signals, &victim) == 0);
    /* The same socket is written to while handlers write to it: no byte may be lost or stuck. */
    int plain = 0, seen_plain = 0, seen_handler = 0;
    char buffer[4096];
    while (seen_handler < 200 || signals < 200) {
        CHECK(send(pair[0], "mmmm", 4, 0) == 4);
        plain += 4;
        ssize_t got = recv(pair[1], buffer, sizeof buffer, MSG_DONTWAIT);
        for (ssize_t i = 0; i < got; i++) {
            seen_plain += buffer[i] == 'm';
            seen_handler += buffer[i] == 'h';
        }
        /* Signals can merge: the sender's end bounds the loop. */
        if (pthread_tryjoin_np(sender, NULL) == 0)
            break;
    }
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    ssize_t got;
    while ((got = read(pair[1], buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < got; i++) {
            seen_plain += buffer[i] == 'm';
            seen_handler += buffer[i] == 'h';
        }
    CHECK(got == 0 && seen_plain == plain && seen_handler == signals && signals > 0);
}

static void *read_for_ever(void *argument) {
    char buffer[8];
    (void)!read(*(int *)argument, buffer, 8);
    return NULL;
}

static void *poll_for_ever(void *argument) {
    struct pollfd entry = {*(int *)argument, POLLIN, 0};
    poll(&entry, 1, -1);
    return NULL;
}

static void *epoll_for_ever(void *argument) {
    struct epoll_event got;
    int epfd = epoll_create1(0);
    add(epfd, *(int *)argument, EPOLLIN);
    epoll_wait(epfd, &got, 1, -1);
    return NULL;
}

static void cancelled_while_blocked(void) {
    int pair[2];
    join_pair(pair);
    void *(*blocked[])(void *) = {read_for_ever, poll_for_ever, epoll_for_ever};
    for (int i = 0; i < 30; i++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, blocked[i % 3], &pair[0]) == 0);
        nap(20);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    }
    /* The socket is as good as before. */
    write_all(pair[1], "x", 1);
    CHECK(read(pair[0], &(char){0}, 1) == 1);
}

enum { THREADS = 24, ROUNDS = 200 };

static void *ping(void *argument) {
    int fd = *(int *)argument;
    for (int i = 0; i < ROUNDS; i++) {
        int back;
        write_all(fd, &i, sizeof i);
        read_all(fd, &back, sizeof back);
        CHECK(back == i);
    }
    CHECK(shutdown(fd, SHUT_WR) == 0);
    return NULL;
}

static void *echo(void *argument) {
    int fd = *(int *)argument;
    char buffer[64];
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        write_all(fd, buffer, got);
    CHECK(got == 0);
    return NULL;
}

static void many_threads(void) {
    static int pairs[THREADS][2];
    pthread_t threads[THREADS][2];
    for (int i = 0; i < THREADS; i++) {
        join_pair(pairs[i]);
        CHECK(pthread_create(&threads[i][0], NULL, ping, &pairs[i][0]) == 0);
        CHECK(pthread_create(&threads[i][1], NULL, echo, &pairs[i][1]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i][0], NULL) == 0 && pthread_join(threads[i][1], NULL) == 0);
}

static void *read_slowly(void *argument) {
    static char block[1 << 16];
    nap(100);
    long long total = 0;
    ssize_t got;
    while ((got = read(*(int *)argument, block, sizeof block)) > 0)
        total += got;
    CHECK(got == 0);
    return (void *)total;
}

static void output_becomes_possible(void) {
    int pair[2], epfd = epoll_create1(0);
    join_pair(pair);
    CHECK(fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
    static char block[1 << 16];
    long long total = 0;
    ssize_t sent;
    struct pollfd entry = {pair[0], POLLOUT, 0};
    /* Until the receiver's buffer is full as well and nothing moves any more. */
    do {
        while ((sent = write(pair[0], block, sizeof block)) > 0)
            total += sent;
        CHECK(errno == EAGAIN);
    } while (poll(&entry, 1, 300) == 1);
    add(epfd, pair[0], EPOLLOUT | EPOLLET);
    expect_nothing(epfd);
    pthread_t reader;
    void *seen;
    CHECK(pthread_create(&reader, NULL, read_slowly, &pair[1]) == 0);
    expect(epfd, pair[0], EPOLLOUT);
    for (int i = 0; i < 100; i++) {
        while ((sent = write(pair[0], block, sizeof block)) > 0)
            total += sent;
        CHECK(errno == EAGAIN);
        CHECK(poll(&entry, 1, 10000) == 1 && entry.revents == POLLOUT);
    }
    CHECK(close(pair[0]) == 0);
    CHECK(pthread_join(reader, &seen) == 0);
    CHECK((long long)seen == total);
}

/* Each of these blocks until the engine is gone. */
static void *read_until_the_end(void *argument) {
    char buffer[8];
    ssize_t got = read(*(int *)argument, buffer, 8);
    CHECK(got == -1 && errno == ECONNRESET);
    return NULL;
}

static void *poll_until_the_end(void *argument) {
    struct pollfd entry = {*(int *)argument, POLLIN, 0};
    CHECK(poll(&entry, 1, -1) == 1 && entry.revents & POLLERR);
    return NULL;
}

static void *epoll_until_the_end(void *argument) {
    int epfd = epoll_create1(0);
    struct epoll_event got;
    add(epfd, *(int *)argument, EPOLLIN | EPOLLET);
    CHECK(epoll_wait(epfd, &got, 1, -1) == 1 && got.events & EPOLLERR);
    CHECK(epoll_wait(epfd, &got, 1, 20) == 0);
    return NULL;
}

static void engine_dies(void) {
    int pairs[3][2];
    pthread_t threads[3];
    void *(*blocked[])(void *) = {read_until_the_end, poll_until_the_end, epoll_until_the_end};
    for (int i = 0; i < 3; i++) {
        join_pair(pairs[i]);
        CHECK(pthread_create(&threads[i], NULL, blocked[i], &pairs[i][0]) == 0);
    }
    nap(100);
    char path[200];
    snprintf(path, sizeof path, "%s/blocked", getenv("PERSONA_RUN_DIR"));
    CHECK(close(open(path, O_CREAT | O_WRONLY, 0600)) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    char buffer[8];
    FAILS(send(pairs[0][0], "x", 1, MSG_NOSIGNAL), ECONNRESET);
    FAILS(recv(pairs[1][1], buffer, 8, 0), ECONNRESET);
    for (int i = 0; i < 3; i++)
        CHECK(close(pairs[i][0]) == 0 && close(pairs[i][1]) == 0);
    /* A new socket is the host's now. */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && !is_accelerated(fd));
}

int main(int argc, char **argv) {
    static const struct test tests[] = {CASE(poll_both_worlds),
                                        CASE(select_both_worlds),
                                        CASE(epoll_level),
                                        CASE(epoll_edge),
                                        CASE(epoll_gives_everybody_a_turn),
                                        CASE(epoll_oneshot),
                                        CASE(epoll_both_worlds),
                                        CASE(epoll_nested),
                                        CASE(epoll_add_wakes_a_sleeper),
                                        CASE(epoll_forgets_closed_sockets),
                                        CASE(poll_times_out),
                                        CASE(interrupted_by_a_signal),
                                        CASE(restarted_after_a_signal),
                                        CASE(writes_from_a_signal_handler),
                                        CASE(cancelled_while_blocked),
                                        CASE(many_threads),
                                        CASE(output_becomes_possible),
                                        CASE(engine_dies),
                                        {0}};
    return run_case(tests, argc, argv);
}
