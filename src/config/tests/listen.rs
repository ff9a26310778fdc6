//! Listeners that are sockets, and the argument that takes their place.

use super::*;

#[test]
fn the_listen_argument_is_local() {
    let check = |text: &str, expected: Result<&str, Code>| {
        let found = parse_listen_argument(text, &[Listen::Tcp("10.0.0.1:80".parse().unwrap())]);
        let found = found.map(|listen| listen.to_string()).map_err(|(code, _)| code);
        assert_eq!(found, expected.map(str::to_owned), "argument: {text}");
    };
    check("127.0.0.1:0", Ok("127.0.0.1:0"));
    check("localhost:80", Ok("127.0.0.1:80"));
    check("unix:/run/o.sock", Ok("unix:/run/o.sock"));
    check("unix:", Err(Code::BadValue));
    check("0.0.0.0:80", Err(Code::ExposedListener));
    check("10.0.0.1:80", Ok("10.0.0.1:80"));
    check("80", Err(Code::BadValue));
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let check =
        |listeners: &str, expected: &[Code]| check_codes(&format!("listen: [{listeners}]\n"), expected);
    let socket = |path: &str, mode: u32| Listen::Unix(UnixSocket { path: path.into(), mode });
    let text = "listen: [{ socket: ./a.sock }, { address: 127.0.0.1:1 }, { socket: /b, mode: \"0660\" }]\n";
    let expected =
        [socket("./a.sock", 0o600), Listen::Tcp("127.0.0.1:1".parse().unwrap()), socket("/b", 0o660)];
    assert_eq!(settings(text).listen, expected);
    assert!(settings(text).summary().starts_with("listen    unix:./a.sock, 127.0.0.1:1, unix:/b\n"));
    // The only listener: no port is taken.
    assert_eq!(settings("listen: [{ socket: /b, mode: '640' }]\n").listen, [socket("/b", 0o640)]);
    check("{ socket: '' }", &[Code::BadValue]);
    check("{ socket: /run/ }", &[Code::BadValue]);
    check(&format!("{{ socket: /{} }}", "x".repeat(99)), &[]);
    check(&format!("{{ socket: /{} }}", "x".repeat(100)), &[Code::BadValue]);
    check("{ socket: /b, mode: 0660 }", &[]);
    for mode in ["'66'", "'0888'", "'01777'", "rw", "'+660'"] {
        check(&format!("{{ socket: /b, mode: {mode} }}"), &[Code::BadValue]);
    }
    check("{ socket: /b, address: 127.0.0.1:1 }", &[Code::BadValue]);
    check("{ socket: /b, expose: true }", &[Code::BadValue]);
    check("{ address: 127.0.0.1:1, mode: '0660' }", &[Code::BadValue]);
    check("{ socket: /b }, { socket: /b }", &[Code::AddressTwice]);
    check_codes("admin: { socket: /b }\n", &[Code::MissingKey, Code::UnknownKey]);
}
