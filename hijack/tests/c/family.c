/* Several processes: fork, exec, sandboxes and strangers. */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static void echo_until_the_end(int fd) {
    char buffer[256];
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        write_all(fd, buffer, got);
    CHECK(got == 0);
}

static void ask(int fd, const char *question) {
    char buffer[256] = {0};
    size_t length = strlen(question);
    write_all(fd, question, length);
    read_all(fd, buffer, length);
    CHECK(memcmp(buffer, question, length) == 0);
}

static void fork_shares_sockets(void) {
    int pair[2];
    join_pair(pair);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(close(pair[0]) == 0);
        echo_until_the_end(pair[1]);
        /* A child makes sockets of its own in the family's session. */
        int port, server = listener(&port), fd = dial(port);
        CHECK(is_accelerated(fd) && accept(server, NULL, NULL) >= 0);
        _exit(0);
    }
    CHECK(close(pair[1]) == 0);
    ask(pair[0], "one");
    ask(pair[0], "two");
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    CHECK(read(pair[0], &(char){0}, 1) == 0);
    reap(child);
}

static void fork_per_connection(void) {
    int port, server = listener(&port);
    pid_t parent = fork();
    if (parent == 0) {
        for (int i = 0; i < 8; i++) {
            int fd = accept(server, NULL, NULL);
            CHECK(fd >= 0);
            pid_t child = fork();
            if (child == 0) {
                CHECK(close(server) == 0);
                echo_until_the_end(fd);
                _exit(0);
            }
            CHECK(close(fd) == 0);
        }
        for (int i = 0, status; i < 8; i++)
            CHECK(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        _exit(0);
    }
    CHECK(close(server) == 0);
    int fds[8];
    for (int i = 0; i < 8; i++)
        fds[i] = dial(port);
    for (int i = 0; i < 8; i++)
        ask(fds[i], "question");
    for (int i = 0; i < 8; i++) {
        CHECK(shutdown(fds[i], SHUT_WR) == 0);
        /* The end comes only if no other process keeps the connection open. */
        CHECK(read(fds[i], &(char){0}, 1) == 0);
    }
    reap(parent);
}

static void accept_in_two_children(void) {
    int port, server = listener(&port);
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            int epfd = epoll_create1(0);
            struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE}, got;
            CHECK(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
            CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, server, &event) == 0);
            for (;;) {
                CHECK(epoll_wait(epfd, &got, 1, 30000) == 1);
                int fd = accept(server, NULL, NULL);
                if (fd < 0) {
                    CHECK(errno == EAGAIN);
                    continue;
                }
                char word[5] = {0};
                read_all(fd, word, 4);
                if (strcmp(word, "stop") == 0)
                    _exit(0);
                write_all(fd, word, 4);
                CHECK(close(fd) == 0);
            }
        }
    }
    CHECK(close(server) == 0);
    for (int i = 0; i < 100; i++) {
        int fd = dial(port);
        ask(fd, "ping");
        CHECK(close(fd) == 0);
    }
    for (int i = 0; i < 2; i++)
        write_all(dial(port), "stop", 4);
    reap(children[0]);
    reap(children[1]);
}

static void close_in_the_parent_only(void) {
    int pair[2];
    join_pair(pair);
    int go[2];
    CHECK(pipe(go) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(close(pair[1]) == 0);
        CHECK(close(go[1]) == 0);
        CHECK(read(go[0], &(char){0}, 1) == 0);
        write_all(pair[0], "still here", 10);
        _exit(0);
    }
    CHECK(close(pair[0]) == 0);
    struct pollfd entry = {pair[1], POLLIN, 0};
    CHECK(poll(&entry, 1, 50) == 0);
    CHECK(close(go[0]) == 0 && close(go[1]) == 0);
    char buffer[16];
    read_all(pair[1], buffer, 10);
    reap(child);
    CHECK(read(pair[1], buffer, 16) == 0);
}

static void fork_with_epoll(void) {
    int pair[2], epfd = epoll_create1(0);
    join_pair(pair);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = pair[1]}, got;
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, pair[1], &event) == 0);
    pid_t child = fork();
    if (child == 0) {
        /* Closing its copies takes nothing away from the parent. */
        CHECK(close(pair[1]) == 0);
        CHECK(close(epfd) == 0);
        int own = epoll_create1(0), next[2];
        join_pair(next);
        event.data.fd = next[1];
        CHECK(epoll_ctl(own, EPOLL_CTL_ADD, next[1], &event) == 0);
        write_all(next[0], "x", 1);
        CHECK(epoll_wait(own, &got, 1, 10000) == 1 && got.data.fd == next[1]);
        write_all(pair[0], "y", 1);
        _exit(0);
    }
    reap(child);
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.data.fd == pair[1]);
    CHECK(read(pair[1], &(char){0}, 1) == 1);
    /* A daemon's child goes on with the set after its parent has gone. */
    int done[2];
    CHECK(pipe(done) == 0);
    child = fork();
    if (child == 0) {
        if (fork() > 0)
            _exit(0);
        CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.data.fd == pair[1]);
        write_all(done[1], "k", 1);
        _exit(0);
    }
    reap(child);
    write_all(pair[0], "z", 1);
    CHECK(close(done[1]) == 0);
    CHECK(read(done[0], &(char){0}, 1) == 1);
}

/* Leaves the calling process little more than what it has open, as sshd does to its child before authentication. */
static void enter_sandbox(void) {
    struct sock_filter rules[64];
    unsigned short count = 0;
    static const int allowed[] = {SYS_read,   SYS_write,  SYS_close,         SYS_poll,  SYS_ppoll, SYS_exit,
                                  SYS_getpid, SYS_gettid, SYS_clock_gettime, SYS_futex, SYS_exit_group};
    rules[count++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        rules[count++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        rules[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    rules[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = {count, rules};
    struct rlimit nothing = {1, 1};
    CHECK(setrlimit(RLIMIT_NOFILE, &nothing) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void child_in_a_sandbox(void) {
    int pair[2];
    join_pair(pair);
    pid_t child = fork();
    if (child == 0) {
        CHECK(close(pair[0]) == 0);
        enter_sandbox();
        struct pollfd entry = {pair[1], POLLIN, 0};
        char buffer[16];
        for (int i = 0; i < 3; i++) {
            CHECK(poll(&entry, 1, -1) == 1);
            ssize_t got = read(pair[1], buffer, sizeof buffer);
            CHECK(got > 0);
            write_all(pair[1], buffer, got);
        }
        CHECK(read(pair[1], buffer, sizeof buffer) == 0);
        _exit(0);
    }
    CHECK(close(pair[1]) == 0);
    for (int i = 0; i < 3; i++) {
        nap(30);
        ask(pair[0], "question");
    }
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    reap(child);
}

static void closes_every_number(void) {
    int pair[2];
    join_pair(pair);
    int keep = dup2(pair[0], 500);
    CHECK(keep == 500);
    /* As daemons do; what the library keeps for itself must survive it. */
    for (int fd = 3; fd < 1100; fd++)
        if (fd != 500)
            close(fd);
    int port, server = listener(&port), fd = dial(port), other = accept(server, NULL, NULL);
    CHECK(server >= 3 && fd >= 3 && other >= 3);
    write_all(fd, "x", 1);
    CHECK(read(other, &(char){0}, 1) == 1);
    CHECK(close_range(501, ~0u, 0) == 0);
    CHECK(fcntl(500, F_GETFD) == 0);
    write_all(fd, "x", 1);
    CHECK(read(other, &(char){0}, 1) == 1);
    /* The peer was closed with all the rest. */
    CHECK(read(500, &(char){0}, 1) == 0);
    CHECK(close_range(500, 500, 0) == 0);
    FAILS(read(500, &(char){0}, 1), EBADF);
    closefrom(3);
    FAILS(write(fd, "x", 1), EBADF);
    server = listener(&port);
    fd = dial(port);
    CHECK(server == 3 && fd == 4 && accept(server, NULL, NULL) == 5);
}

static void stdio_on_a_socket(void) {
    int pair[2];
    join_pair(pair);
    write_all(pair[1], "first line\nsecond ", 18);
    FILE *stream = fdopen(pair[0], "r+");
    CHECK(stream);
    char line[64];
    CHECK(fgets(line, sizeof line, stream) && strcmp(line, "first line\n") == 0);
    write_all(pair[1], "line\n", 5);
    CHECK(fgets(line, sizeof line, stream) && strcmp(line, "second line\n") == 0);
    CHECK(fseek(stream, 0, SEEK_CUR) == -1);
    CHECK(fprintf(stream, "answer %d\n", 42) == 10 && fflush(stream) == 0);
    read_all(pair[1], line, 10);
    CHECK(memcmp(line, "answer 42\n", 10) == 0);
    /* So do timeouts and the blocking mode, set before or after. */
    struct timeval time = {0, 20000};
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    FAILS(read(pair[0], line, 1), EAGAIN);
    time.tv_usec = 0;
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    /* The descriptor itself goes on working, poll and epoll included. */
    write_all(pair[0], "direct", 6);
    read_all(pair[1], line, 6);
    int epfd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = pair[0]}, got;
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, pair[0], &event) == 0);
    write_all(pair[1], "z", 1);
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.data.fd == pair[0]);
    CHECK(fgetc(stream) == 'z');
    CHECK(fclose(stream) == 0);
    CHECK(read(pair[1], line, 1) == 0);
}

static void standard_streams(void) {
    int pair[2];
    join_pair(pair);
    write_all(pair[1], "a question\n", 11);
    pid_t child = fork();
    if (child == 0) {
        CHECK(dup2(pair[0], 0) == 0 && dup2(pair[0], 1) == 1);
        CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
        char line[32];
        CHECK(fgets(line, sizeof line, stdin) && strcmp(line, "a question\n") == 0);
        printf("an answer\n");
        exit(0);
    }
    CHECK(close(pair[0]) == 0);
    char buffer[16];
    read_all(pair[1], buffer, 10);
    CHECK(memcmp(buffer, "an answer\n", 10) == 0);
    CHECK(read(pair[1], buffer, 1) == 0);
    reap(child);
}

static void formatted_output(void) {
    int pair[2], epfd = epoll_create1(0);
    join_pair(pair);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 1}, got;
    CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, pair[0], &event) == 0);
    write_all(pair[0], "<", 1);
    CHECK(dprintf(pair[0], "%d %s %.2f %d %d %d %d>", 1, "two", 3.0, 4, 5, 6, 7) == 19);
    char buffer[32] = {0};
    read_all(pair[1], buffer, 20);
    CHECK(strcmp(buffer, "<1 two 3.00 4 5 6 7>") == 0);
    /* A membership from before the relay goes on, and can be changed. */
    event.data.u64 = 2;
    CHECK(epoll_ctl(epfd, EPOLL_CTL_MOD, pair[0], &event) == 0);
    write_all(pair[1], "x", 1);
    CHECK(epoll_wait(epfd, &got, 1, 10000) == 1 && got.data.u64 == 2);
    CHECK(epoll_ctl(epfd, EPOLL_CTL_DEL, pair[0], NULL) == 0);
    CHECK(dprintf(1, "%s", "") == 0);
}

/* A child that no function of libc's made: the kernel alone tells it apart from its parent. */
static void fork_by_system_call(void) {
    int pair[2];
    join_pair(pair);
    pid_t child = syscall(SYS_fork);
    if (child == 0) {
        CHECK(close(pair[0]) == 0);
        echo_until_the_end(pair[1]);
        int port, server = listener(&port), fd = dial(port);
        CHECK(accept(server, NULL, NULL) >= 0 && is_accelerated(fd));
        _exit(0);
    }
    CHECK(close(pair[1]) == 0);
    ask(pair[0], "question");
    CHECK(shutdown(pair[0], SHUT_WR) == 0);
    CHECK(read(pair[0], &(char){0}, 1) == 0);
    reap(child);
}

/* The child became cat on pair[0] and has "before" to echo already. */
static void talk_to_cat(int pair[2], pid_t child) {
    CHECK(close(pair[0]) == 0);
    char buffer[16];
    read_all(pair[1], buffer, 7);
    CHECK(memcmp(buffer, "before\n", 7) == 0);
    write_all(pair[1], "after\n", 6);
    read_all(pair[1], buffer, 6);
    CHECK(memcmp(buffer, "after\n", 6) == 0);
    CHECK(shutdown(pair[1], SHUT_WR) == 0);
    CHECK(read(pair[1], buffer, 1) == 0);
    reap(child);
}

static void exec_of_a_stranger(void) {
    int pair[2];
    join_pair(pair);
    write_all(pair[1], "before\n", 7);
    pid_t child = fork();
    if (child == 0) {
        CHECK(dup2(pair[0], 0) == 0 && dup2(pair[0], 1) == 1);
        CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
        char *nothing[] = {NULL};
        /* More arguments than there are registers for them. */
        execle("/bin/cat", "cat", "-u", "-u", "-u", "-u", "-u", "-u", "-", NULL, nothing);
        _exit(9);
    }
    talk_to_cat(pair, child);
}

/* env has the library in it and drops the environment before it makes the call by which the library would notice. */
static void exec_by_env_of_a_stranger(void) {
    for (int low = 0; low < 2; low++) {
        int pair[2];
        join_pair(pair);
        write_all(pair[1], "before\n", 7);
        pid_t child = fork();
        if (child == 0) {
            /* At a number of its own, or as inetd does it. */
            CHECK(close(0) == 0);
            if (low)
                CHECK(fcntl(pair[0], F_DUPFD, 0) == 0);
            else
                CHECK(dup2(pair[0], 9) == 9);
            CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
            const char *script = low ? "exec cat >&0" : "exec cat <&9 >&9";
            execlp("env", "env", "-i", "/bin/sh", "-c", script, NULL);
            _exit(9);
        }
        talk_to_cat(pair, child);
    }
}

/* Second half of exec_keeps_sockets: the new image, with connection 10 and listener 11. */
static void carried(void) {
    struct sockaddr_in sin;
    socklen_t length = sizeof sin;
    CHECK(getsockname(11, (struct sockaddr *)&sin, &length) == 0 && sin.sin_family == AF_INET);
    int port = ntohs(sin.sin_port);
    char buffer[16];
    read_all(10, buffer, 6);
    CHECK(memcmp(buffer, "unread", 6) == 0);
    write_all(10, "answer", 6);
    int fd = dial(port), other = accept(11, NULL, NULL);
    CHECK(is_accelerated(fd) && is_accelerated(other));
    write_all(fd, "new", 3);
    read_all(other, buffer, 3);
    CHECK(fcntl(12, F_GETFD) == -1);
}

static char *self;

static void exec_keeps_sockets(void) {
    int pair[2], port, server = listener(&port);
    join_pair(pair);
    write_all(pair[1], "unread", 6);
    for (int drop = 0; drop < 2; drop++) {
        pid_t child = fork();
        if (child == 0) {
            CHECK(dup2(pair[0], 10) == 10 && dup2(server, 11) == 11);
            CHECK(dup3(pair[0], 12, O_CLOEXEC) == 12);
            /* The second child drops its environment, as programs do that replace themselves. */
            char *nothing[] = {NULL}, *arguments[] = {self, "carried", NULL};
            if (drop)
                execve(self, arguments, nothing);
            else
                execlp(self, self, "carried", NULL);
            _exit(9);
        }
        char buffer[16];
        read_all(pair[1], buffer, 6);
        CHECK(memcmp(buffer, "answer", 6) == 0);
        reap(child);
        write_all(pair[1], "unread", 6);
    }
    /* An exec that fails changes nothing. */
    int copy = fcntl(pair[0], F_DUPFD, 40);
    FAILS(execl("/nonexistent", "nonexistent", NULL), ENOENT);
    char buffer[16];
    read_all(copy, buffer, 6);
    CHECK(memcmp(buffer, "unread", 6) == 0);
}

static void passed_over_a_socket(void) {
    int pair[2], road[2];
    join_pair(pair);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, road) == 0);
    write_all(pair[1], "unread", 6);
    pid_t child = fork();
    if (child == 0) {
        /* A stranger: it uses the kernel alone. */
        char control[64], byte;
        struct iovec part = {&byte, 1};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = 64};
        CHECK(recvmsg(road[1], &message, 0) == 1);
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        char buffer[16];
        CHECK(syscall(SYS_read, fd, buffer, 6) == 6 && memcmp(buffer, "unread", 6) == 0);
        CHECK(syscall(SYS_write, fd, "answer", 6) == 6);
        _exit(0);
    }
    char control[CMSG_SPACE(sizeof(int))];
    memset(control, 0, sizeof control);
    struct iovec part = {"f", 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &pair[0], sizeof(int));
    CHECK(sendmsg(road[0], &message, 0) == 1);
    CHECK(close(pair[0]) == 0);
    char buffer[16];
    read_all(pair[1], buffer, 6);
    CHECK(memcmp(buffer, "answer", 6) == 0);
    reap(child);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {CASE(fork_shares_sockets),
                                        CASE(fork_per_connection),
                                        CASE(accept_in_two_children),
                                        CASE(close_in_the_parent_only),
                                        CASE(fork_with_epoll),
                                        CASE(child_in_a_sandbox),
                                        CASE(closes_every_number),
                                        CASE(stdio_on_a_socket),
                                        CASE(standard_streams),
                                        CASE(formatted_output),
                                        CASE(fork_by_system_call),
                                        CASE(exec_of_a_stranger),
                                        CASE(exec_by_env_of_a_stranger),
                                        CASE(exec_keeps_sockets),
                                        CASE(carried),
                                        CASE(passed_over_a_socket),
                                        {0}};
    self = argv[0];
    return run_case(tests, argc, argv);
}
