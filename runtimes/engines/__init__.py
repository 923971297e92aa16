"""One file per engine, found by its name, imported only when asked for; `runtimes.runtime.Engine` is what each is."""
