# Every target is safe to run again. The work is in scripts/setup, which does without make.
PREFIX ?= /usr/local
HOOKS_DIR ?= $(PREFIX)/share/krunpy/hooks.d

.PHONY: demo test test-libkrun lint man install-hooks lock clean
.SILENT:

demo:
	scripts/setup demo

test:
	scripts/setup test

test-libkrun:
	scripts/setup test-libkrun

lint:
	scripts/setup lint

man: build/man/krunpy.1

build/man/%.1: docs/man/%.1.md
	command -v go-md2man >/dev/null || { echo "make man: go-md2man is missing: apt-get install go-md2man" >&2; exit 1; }
	mkdir -p $(@D)
	go-md2man -in $< -out $@
	echo "$@"

# podman wants an absolute path in a definition, so they are filled in here. Not into a folder that podman reads for
# every container: they are for `podman --hooks-dir`.
install-hooks:
	install -d "$(DESTDIR)$(PREFIX)/libexec/krunpy" "$(DESTDIR)$(HOOKS_DIR)"
	install -m 0755 hooks/krunpy-precreate hooks/krunpy-poststop "$(DESTDIR)$(PREFIX)/libexec/krunpy/"
	for stage in precreate poststop; do \
	  sed 's|/usr/local/|$(PREFIX)/|' hooks/krunpy-$$stage.json >"$(DESTDIR)$(HOOKS_DIR)/krunpy-$$stage.json"; \
	done

# Needs uv (PyPI). One lock for every supported Python.
LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock:
	$(LOCK) pyproject.toml --group build -o requirements/lock.txt
	$(LOCK) --group dev -c requirements/lock.txt -o requirements/dev-lock.txt

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache images/guest/agent/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
