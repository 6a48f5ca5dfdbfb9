//! Small misbehaving proxies, and servers other than ours.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Rewrites the head of a request.
pub type Request = fn(String) -> String;
/// Forwards the server's bytes to the client.
pub type Answer = fn(&mut TcpStream, &mut TcpStream);

/// A proxy to a server. Its threads end with the test.
pub fn proxy(server: SocketAddr, request: Request, answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = Arc::new(client.unwrap());
            std::thread::spawn(move || serve(&client, server, request, answer));
        }
    });
    address
}

fn serve(client: &Arc<TcpStream>, server: SocketAddr, request: Request, answer: Answer) {
    let Some((head, rest)) = read_head(client) else { return };
    let server = Arc::new(TcpStream::connect(server).unwrap());
    for stream in [client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let head = request(head);
    if (&*server).write_all(&[head.as_bytes(), &rest].concat()).is_err() {
        return;
    }
    let (from, to) = (Arc::clone(client), Arc::clone(&server));
    std::thread::spawn(move || {
        // Either end may close at any moment.
        let _ = std::io::copy(&mut &*from, &mut &*to);
        let _ = to.shutdown(Shutdown::Write);
    });
    answer(&mut server.try_clone().unwrap(), &mut client.try_clone().unwrap());
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// The head of a request, and the bytes received after it.
fn read_head(mut client: &TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut got, mut piece) = (Vec::new(), [0; 65536]);
    loop {
        if let Some(at) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = got.split_off(at + 4);
            return Some((String::from_utf8(got).unwrap(), rest));
        }
        match client.read(&mut piece) {
            Ok(count) if count > 0 => got.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}

/// The head unchanged.
pub fn as_it_is(head: String) -> String {
    head
}

/// The head without the lines with these prefixes, and with a new line.
pub fn with(head: &str, without: &[&str], line: &str) -> String {
    let is_kept = |it: &&str| without.iter().all(|start| !it.starts_with(start));
    let lines: Vec<&str> = head.trim_end().split("\r\n").filter(is_kept).collect();
    lines.join("\r\n") + "\r\n" + line + "\r\n\r\n"
}

/// Forwards all bytes as they come.
pub fn at_once(server: &mut TcpStream, client: &mut TcpStream) {
    let _ = std::io::copy(server, client);
}

/// Forwards all bytes, changed; each read is one piece.
pub fn changed(server: &mut TcpStream, client: &mut TcpStream, change: fn(String) -> String) {
    let mut piece = [0; 65536];
    while let Ok(count) = server.read(&mut piece)
        && count > 0
    {
        // The texts to change are ASCII, and within one read.
        let bytes: String = piece[..count].iter().map(|byte| char::from(*byte)).collect();
        let bytes: Vec<u8> = change(bytes).chars().map(|c| u8::try_from(c).unwrap()).collect();
        if client.write_all(&bytes).is_err() {
            break;
        }
    }
}

/// Rewrites a request for this page to one that the server does not have.
pub fn away(head: String, page: &str) -> String {
    head.replacen(page, "/away HTTP/1.1", 1)
}

/// Cuts the connection if the server sends nothing for `MS` milliseconds.
pub fn impatient<const MS: u64>(server: &mut TcpStream, client: &mut TcpStream) {
    server.set_read_timeout(Some(Duration::from_millis(MS))).unwrap();
    let mut piece = [0; 65536];
    loop {
        match server.read(&mut piece) {
            Ok(count) if count > 0 => {
                if client.write_all(&piece[..count]).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// A server with this answer to every request.
pub fn answering(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            if read_head(&client).is_some() {
                let _ = client.write_all(text.as_bytes());
            }
        }
    });
    address
}

/// A SockJS server without `ping`: it does not answer it at all, or echoes.
pub fn another(echo: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut held, mut is_open) = (Vec::new(), false);
        for mut client in listener.incoming().map(Result::unwrap) {
            let Some((head, _)) = read_head(&client) else { continue };
            let answer = match head.split(' ').nth(1).unwrap().rsplit('/').next().unwrap() {
                "socket" => "200 OK\r\nContent-Length: 19\r\n\r\nWelcome to SockJS!\n".into(),
                "xhr_send" => "204 No Content\r\n\r\n".into(),
                "xhr" if !is_open => {
                    is_open = true;
                    "200 OK\r\nContent-Length: 2\r\n\r\no\n".into()
                }
                "xhr" if echo.is_empty() => {
                    held.push(client);
                    continue;
                }
                _ => format!("200 OK\r\nContent-Length: {}\r\n\r\n{echo}", echo.len()),
            };
            let _ = client.write_all(format!("HTTP/1.1 {answer}").as_bytes());
        }
    });
    address
}
