//! Tests of the command line.

use std::os::unix::ffi::OsStrExt;

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn config(line: &str) -> Config {
    config_of(words(line))
}

fn invocation(words: Vec<OsString>) -> Result<Invocation, String> {
    from_command_line(OsStr::new("target/rustmemc"), words)
}

fn config_of(words: Vec<OsString>) -> Config {
    match invocation(words.clone()) {
        Ok(Invocation::Serve { config, .. }) => *config,
        other => panic!("{words:?} became {other:?}"),
    }
}

fn refusal(line: &str) -> String {
    invocation(words(line)).expect_err(line)
}

/// The words of a line, with the byte 0xff in place of each `?`.
fn bytes(line: &str) -> Vec<OsString> {
    let word = |word: &str| {
        let bytes = word
            .bytes()
            .map(|byte| if byte == b'?' { 0xff } else { byte });
        OsStr::from_bytes(&bytes.collect::<Vec<_>>()).to_owned()
    };
    line.split_whitespace().map(word).collect()
}

#[test]
fn forms_that_only_getopt_accepts_are_rewritten_for_argh() {
    for (given, expected) in [
        ("-vv", "-v -v"),
        ("-m64", "-m 64"),
        ("-p11211", "-p 11211"),
        ("--port=11211", "--port 11211"),
        ("-vvm64 -A", "-v -v -m 64 -A"),
        ("-c -1 -v", "-c -1 -v"),
        ("-l ::1", "-l ::1"),
        ("--memory-l 64", "--memory-limit 64"),
        ("--listen a", "--listen a"),
        ("--verbose=1", "--verbose"),
    ] {
        let rewritten = normalised(words(given), Flags::get_args_info().flags).expect(given);
        assert_eq!(rewritten.flags.join(" "), expected);
        assert!(rewritten.ignored.is_empty(), "{given}");
    }
}

#[test]
fn words_that_are_no_flags_are_ignored_and_named() {
    let config = config("-m 128 some -v words -- -m 256");
    assert_eq!((config.memory_limit, config.verbosity), (128 << 20, 1));
    assert_eq!(config.notes, ["no effect here: some words -m 256"]);
}

#[test]
fn a_command_line_made_for_memcached_works() {
    let config = config(
        "-p 0 -l 127.0.0.1,::1 -u nobody -t4 -U 0 -B ascii -o modern -vv -m 128 -I 2m -c100 -R 30 -b 512 -C",
    );
    assert_eq!(
        (config.port, config.conn_limit, config.verbosity),
        (0, 100, 2)
    );
    let listen = config.listen.iter().map(ToString::to_string);
    assert_eq!(listen.collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    assert_eq!(
        (config.memory_limit, config.max_item_size),
        (128 << 20, 2 << 20)
    );
    let [note, _] = config.notes.as_slice() else {
        panic!("{:?}", config.notes)
    };
    assert_eq!(
        note,
        "no effect here: -t 4, -b 512 (the queue of std's sockets has 128 places), -R 30, -C, -o modern"
    );
    let reported = &config.reported;
    assert_eq!((reported.num_threads, reported.tcp_backlog), (4, 512));
    assert_eq!((reported.reqs_per_event, reported.cas_enabled), (30, false));
    assert_eq!(config.protocol, Protocol::Ascii);
}

#[test]
fn numbers_are_read_as_c_reads_them() {
    let words = [
        "-m 512m",
        "-p",
        "11211 ",
        "--conn-limit= 7",
        "-I 5M",
        "-t",
        "2x",
    ];
    let config = config_of(words.map(Into::into).to_vec());
    assert_eq!((config.port, config.conn_limit), (11211, 7));
    assert_eq!(
        (config.memory_limit, config.max_item_size),
        (512 << 20, 5 << 20)
    );
}

#[test]
fn a_unix_socket_replaces_the_port_unless_the_port_is_given_too() {
    for (line, ports, log) in [
        ("-s run/m.sock", 0, Some("rustmemc-m.sock.aof")),
        ("-s run/m.sock -p 0", 0, Some("rustmemc-m.sock.aof")),
        ("-s run/m.sock -p 11211", 1, Some("rustmemc.aof")),
        ("-p 0", 1, None),
        ("-p -1", 1, None),
        ("-U 24000", 1, Some("rustmemc-24000.aof")),
        ("-l a:24000,b", 2, Some("rustmemc-24000.aof")),
        ("-l ,a;;b,a -l b", 2, Some("rustmemc.aof")),
    ] {
        let config = config(line);
        assert_eq!(config.listen.len(), ports, "{line}");
        let log = log.map(PathBuf::from);
        assert_eq!(config.aof.map(|aof| aof.path), log, "{line}");
    }
}

#[test]
fn under_the_name_memcached_its_defaults_and_its_version_are_memcacheds() {
    let run = |line| from_command_line(OsStr::new("/usr/bin/memcached"), words(line));
    let Ok(Invocation::Serve { config, .. }) = run("-p 11211") else {
        panic!("it starts")
    };
    assert!(config.aof.is_none() && config.notes.is_empty());
    assert_eq!(config.listen, [TcpAddress::everywhere()]);
    let Ok(Invocation::Serve { config, .. }) = run("--aof x") else {
        panic!("it starts")
    };
    assert!(config.aof.is_some());
    let Ok(Invocation::Text(version)) = run("-V") else {
        panic!("it prints its version")
    };
    assert_eq!(version, "memcached 1.6.45");
    let Ok(Invocation::Text(help)) = run("-h") else {
        panic!("it prints help")
    };
    assert!(help.starts_with("memcached 1.6.45\n"), "{help}");
}

#[test]
fn the_options_of_the_process_are_not_part_of_the_configuration() {
    let Ok(Invocation::Serve { process, .. }) = invocation(words("-d -P m.pid -u nobody")) else {
        panic!("it starts")
    };
    assert!(process.daemon);
    assert_eq!(process.user.as_deref(), Some("nobody"));
    assert_eq!(process.pid_file, Some("m.pid".into()));
}

#[test]
fn the_last_value_counts_when_a_flag_is_given_twice() {
    let config = config("-m 64 -m128 --port=1 -p 2 -t 4 -t 5");
    assert_eq!((config.memory_limit, config.port), (128 << 20, 2));
}

#[test]
fn a_wrong_value_is_refused_in_one_line_that_names_flag_and_value() {
    for (line, flag, value) in [
        ("-p x", "-p", "x"),
        ("-p 65536", "-p", "65536"),
        ("--port=-2", "-p", "-2"),
        ("-c 0", "-c", "0"),
        ("-c -1", "-c", "-1"),
        ("-m 0", "-m", "0"),
        ("-m lots", "-m", "lots"),
        ("-t 0", "-t", "0"),
        ("-R 0", "-R", "0"),
        ("-n 0", "-n", "0"),
        ("-f 1", "-f", "1"),
        ("-f x", "-f", "x"),
        ("-b x", "-b", "x"),
        ("-U x", "-U", "x"),
        ("-N 0", "-N", "0"),
        ("-D  ", "-D", ""),
        ("-D é", "-D", "é"),
        ("-a 9", "-a", "9"),
        ("-B nonsense", "-B", "nonsense"),
        ("-o nonsense", "-o", "nonsense"),
        ("-o idle_timeout", "-o", "idle_timeout"),
        ("-l a:x", "-l", "x"),
        ("-l proto[xml]:a", "-l", "xml"),
        ("-S", "-S", "SASL"),
        ("-Z", "-Z", "TLS"),
        ("-q", "-q", ""),
        ("--li a", "--li", "--listen-backlog"),
        ("-m 99999999999999999", "-m", "99999999999999999"),
        ("-I 1023", "-I", "1023"),
        ("-I 33m", "-I", "34603008"),
        ("-I 1g", "-I", "1"),
        ("-I x", "-I", "x"),
        ("--idle-timeout soon", "--idle-timeout", "soon"),
        ("--nonsense", "--nonsense", ""),
    ] {
        let refusal = refusal(line);
        assert!(
            refusal.contains(flag) && refusal.contains(value),
            "{line:?} was refused with {refusal:?}"
        );
        assert!(!refusal.contains('\n'), "{refusal:?}");
    }
}

#[test]
fn the_append_only_file_may_have_any_name() {
    for line in ["--aof d?r/f?le", "--aof=d?r/f?le", "--aof x --aof d?r/f?le"] {
        let aof = config_of(bytes(line)).aof.expect("a file is configured");
        assert_eq!(aof.path.as_os_str().as_bytes(), b"d\xffr/f\xffle", "{line}");
    }
    let aof = config_of(bytes("--aof f?le --aof x")).aof;
    assert_eq!(aof.expect("a file is configured").path, PathBuf::from("x"));
    let aof = config("--aof -vv").aof;
    assert_eq!(
        aof.expect("a file is configured").path,
        PathBuf::from("-vv")
    );
}

#[test]
fn a_word_that_is_not_utf_8_is_refused_and_its_flag_is_named() {
    for (line, flag) in [
        ("-p ?", "-p"),
        ("-p?", "-p"),
        ("--port ?", "--port"),
        ("--port=?", "--port"),
        ("-v -l ?", "-l"),
        ("--aof ? --listen ?", "--listen"),
        ("--?", "--"),
        ("?", "UTF-8"),
    ] {
        let refusal = invocation(bytes(line)).expect_err(line);
        assert!(
            refusal.starts_with(flag) || flag == "UTF-8",
            "{line}: {refusal}"
        );
        assert!(refusal.contains("not UTF-8"), "{line}: {refusal}");
    }
}

#[test]
fn help_and_version_print_a_text_and_start_no_server() {
    for line in ["-h", "--help", "-V", "--version", "-i", "--license"] {
        assert!(
            matches!(invocation(words(line)), Ok(Invocation::Text(_))),
            "{line}"
        );
    }
}
