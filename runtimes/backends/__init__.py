"""One file per engine, found by its name, imported only when asked for; `runtimes.runtime.Backend` is what each is."""
