/* Waiting: blocked calls, poll, select, signals, threads, and the end of the engine. */
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
