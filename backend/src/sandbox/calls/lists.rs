//! The lists.

/// Numbers with their names; those behind the semicolon exist on 64-bit x86 only.
macro_rules! calls {
    ($($call:ident)*; $($old:ident)*) => {
        &[
            $((libc::$call, stringify!($call).split_at("SYS_".len()).1),)*
            $(
                #[cfg(target_arch = "x86_64")]
                (libc::$old, stringify!($old).split_at("SYS_".len()).1),
            )*
        ]
    };
}

/// What the driver and the worker use, whatever the arguments. Those of which only some are let through are not listed here.
#[rustfmt::skip]
pub const ALLOWED: &[(i64, &str)] = calls! {
    SYS_read SYS_readv SYS_pread64 SYS_preadv SYS_preadv2 SYS_write SYS_writev SYS_pwrite64 SYS_pwritev SYS_pwritev2
    SYS_lseek SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_ioctl SYS_openat SYS_openat2
    SYS_fstat SYS_newfstatat SYS_statx SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getdents64 SYS_getcwd
    SYS_chdir SYS_fchdir SYS_statfs SYS_fstatfs SYS_ftruncate SYS_fallocate SYS_fsync SYS_fdatasync SYS_fadvise64
    SYS_renameat2 SYS_mkdirat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_fchmod SYS_fchmodat SYS_utimensat SYS_umask
    SYS_sendfile SYS_copy_file_range SYS_memfd_create SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise
    SYS_msync SYS_mincore SYS_brk SYS_mlock SYS_mlock2 SYS_munlock SYS_membarrier SYS_pkey_alloc SYS_pkey_free
    SYS_pkey_mprotect SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_futex SYS_futex_waitv SYS_set_robust_list
    SYS_get_robust_list SYS_set_tid_address SYS_rseq SYS_exit SYS_exit_group SYS_restart_syscall SYS_rt_sigaction
    SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_sigaltstack
    SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam SYS_sched_getscheduler
    SYS_sched_setscheduler SYS_sched_setparam SYS_sched_getattr SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_clock_gettime
    SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_times SYS_timer_create SYS_timer_settime
    SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_timerfd_create SYS_timerfd_settime
    SYS_timerfd_gettime SYS_getitimer SYS_setitimer SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2
    SYS_ppoll SYS_pselect6 SYS_eventfd2 SYS_pipe2 SYS_signalfd4 SYS_socketpair SYS_sendmsg SYS_recvmsg SYS_sendto
    SYS_recvfrom SYS_shutdown SYS_getsockopt SYS_setsockopt SYS_getsockname SYS_getpeername SYS_getpid SYS_getppid
    SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups SYS_getpgid
    SYS_getsid SYS_getrlimit SYS_setrlimit SYS_getrusage SYS_sysinfo SYS_uname SYS_getcpu SYS_getrandom SYS_capget;
    SYS_open SYS_stat SYS_lstat SYS_access SYS_readlink SYS_getdents SYS_rename SYS_renameat SYS_mkdir SYS_unlink
    SYS_rmdir SYS_chmod SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd
    SYS_signalfd SYS_arch_prctl SYS_time SYS_getpgrp SYS_alarm SYS_utime SYS_utimes SYS_futimesat SYS_creat SYS_link
    SYS_symlink
};

/// Of these some arguments are let through.
#[rustfmt::skip]
pub const CONDITIONAL: &[(i64, &str)] = calls! {
    SYS_clone SYS_prctl SYS_prlimit64 SYS_tgkill SYS_move_pages SYS_migrate_pages;
};

/// What a driver may try and can do without. Calls on no list are refused too; these have a name here.
#[rustfmt::skip]
pub const REFUSED: &[(i64, &str)] = calls! {
    SYS_clone3 SYS_execve SYS_execveat SYS_socket SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4
    SYS_sendmmsg SYS_recvmmsg SYS_kill SYS_tkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_pidfd_open
    SYS_pidfd_send_signal SYS_pidfd_getfd SYS_wait4 SYS_waitid SYS_setsid SYS_setpgid SYS_setuid SYS_setgid
    SYS_setresuid SYS_setresgid SYS_setreuid SYS_setregid SYS_setgroups SYS_setfsuid SYS_setfsgid SYS_capset
    SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd
    SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
    SYS_mq_getsetattr SYS_mknodat SYS_truncate SYS_fchown SYS_fchownat SYS_setxattr SYS_lsetxattr SYS_fsetxattr
    SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_flistxattr SYS_removexattr SYS_inotify_init1
    SYS_inotify_add_watch SYS_inotify_rm_watch SYS_fanotify_init SYS_fanotify_mark SYS_splice SYS_tee SYS_vmsplice
    SYS_readahead SYS_sync SYS_syncfs SYS_sync_file_range SYS_mlockall SYS_munlockall SYS_process_madvise
    SYS_process_mrelease SYS_remap_file_pages SYS_memfd_secret SYS_set_mempolicy_home_node SYS_ioprio_set
    SYS_ioprio_get SYS_io_setup SYS_io_submit SYS_io_getevents SYS_io_destroy SYS_io_cancel
    SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self SYS_seccomp SYS_sched_setattr SYS_kcmp SYS_name_to_handle_at
    SYS_personality SYS_vhangup SYS_syslog;
    SYS_fork SYS_vfork SYS_mknod SYS_chown SYS_lchown SYS_inotify_init SYS_modify_ldt
};

/// What nobody but an attacker asks for.
#[rustfmt::skip]
pub const HOSTILE: &[(i64, &str)] = calls! {
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_bpf SYS_perf_event_open SYS_userfaultfd
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_add_key SYS_request_key SYS_keyctl SYS_setns
    SYS_unshare SYS_mount SYS_umount2 SYS_mount_setattr SYS_move_mount SYS_open_tree SYS_fsopen SYS_fsconfig
    SYS_fsmount SYS_fspick SYS_pivot_root SYS_chroot SYS_init_module SYS_finit_module SYS_delete_module
    SYS_kexec_load SYS_kexec_file_load SYS_reboot SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_quotactl_fd
    SYS_open_by_handle_at SYS_sethostname SYS_setdomainname SYS_settimeofday SYS_clock_settime
    SYS_clock_adjtime SYS_adjtimex SYS_nfsservctl SYS_lookup_dcookie;
    SYS_iopl SYS_ioperm SYS_uselib SYS_ustat SYS__sysctl
};
