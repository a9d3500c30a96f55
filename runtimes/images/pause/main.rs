//! The first process of every pod sandbox: it holds the namespaces and does nothing.
//!
//! It handles no signal, which makes it deaf to all but SIGKILL as the first process of a PID
//! namespace; that is what a runtime ends a pod sandbox with. There is nothing to reap either, for
//! the containers of the pod have PID namespaces of their own.
//!
//! Like the pause container of Kubernetes, it says its version when it is asked with `-v`: that is how hearthd finds out
//! whether a pod answers that was frozen.

fn main() {
    if std::env::args().nth(1).as_deref() == Some("-v") {
        println!("hearth-pause 1");
        return;
    }
    loop {
        // May return without cause.
        std::thread::park();
    }
}
