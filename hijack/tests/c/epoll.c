/* Epoll sets: level, edge, one shot, both worlds, sets in sets, sleepers, and closed sockets. */
#include "check.h"

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

static void *sleep_in_poll(void *epfd) {
    struct pollfd entry = {*(int *)epfd, POLLIN, 0};
    CHECK(poll(&entry, 1, 10000) == 1);
    CHECK(entry.revents == POLLIN);
    return NULL;
}

/* A thread waits in the set before it has any member. */
static void epoll_add_wakes_a_sleeper_of_an_empty_set(void) {
    for (int late = 0; late < 2; late++) {
        int pair[2], epfd = epoll_create1(0);
        join_pair(pair);
        if (!late)
            write_all(pair[0], "early", 5);
        struct sleeper sleeper = {epfd, pair[1]};
        pthread_t threads[2], poller;
        CHECK(pthread_create(&threads[0], NULL, sleep_in_epoll, &sleeper) == 0);
        CHECK(pthread_create(&threads[1], NULL, sleep_in_epoll, &sleeper) == 0);
        CHECK(pthread_create(&poller, NULL, sleep_in_poll, &epfd) == 0);
        nap(100);
        add(epfd, pair[1], EPOLLIN);
        nap(100);
        if (late)
            write_all(pair[0], "later", 5);
        CHECK(pthread_join(threads[0], NULL) == 0);
        CHECK(pthread_join(threads[1], NULL) == 0);
        CHECK(pthread_join(poller, NULL) == 0);
        close(epfd);
    }
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

int main(int argc, char **argv) {
    static const struct test tests[] = {CASE(epoll_level),
                                        CASE(epoll_edge),
                                        CASE(epoll_gives_everybody_a_turn),
                                        CASE(epoll_oneshot),
                                        CASE(epoll_both_worlds),
                                        CASE(epoll_nested),
                                        CASE(epoll_add_wakes_a_sleeper),
                                        CASE(epoll_add_wakes_a_sleeper_of_an_empty_set),
                                        CASE(epoll_forgets_closed_sockets),
                                        {0}};
    return run_case(tests, argc, argv);
}
