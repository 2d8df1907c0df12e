"""The entry point of the `specexec` command."""

import gc
import os
import signal
import sys
import threading

OBJECTS = 100_000  # that are made before dead cycles among them are looked for: libraries bring a million, which stay
AGAIN = 0.01  # seconds until a Ctrl-C that nobody could take is pressed once more

ONLINE = ("pull", "download", "get", "plan")  # commands that may ask the network, by all their names


def main() -> int:
    """Runs the command line; returns the exit code."""
    sys.unraisablehook = lost
    gc.set_threshold(OBJECTS)
    try:
        return _main()
    except KeyboardInterrupt:  # while the first modules load
        return 130
    finally:
        gc.freeze()  # or the interpreter, as it ends, goes through all of them once more
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done, and the interpreter would complain while it ends


def lost(what: "sys.UnraisableHookArgs") -> None:
    """Where Python drops what is raised (a destructor, a callback of an import), Ctrl-C comes again a moment later."""
    if issubclass(what.exc_type, KeyboardInterrupt):
        threading.Timer(AGAIN, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(what)


def _main() -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is first imported: threads must not spin,
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # or some 30 us alone: waking takes 50, after every row kernel
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not {*sys.argv[1:2]} & {*ONLINE} and "--repair" not in sys.argv:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
    import cli

    if getattr(cli, "OWNER", None) != "specexec":
        print(f"Error: another package called cli hides specexec's: {cli.__file__}", file=sys.stderr)
        print("Try: pipx install specexec, which keeps its packages to itself", file=sys.stderr)
        return 1
    from cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
