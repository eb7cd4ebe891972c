# Fathom's two commands: `make demo` and `make test`. Each does all the set-up it needs and is quick the second time.
# Set-up installs Debian packages (as root or with sudo); all else stays in this folder: .deps/, models/, build/, demo/.
.PHONY: demo test test-arm experiment build deps format lint clean
FATHOM := build/release/fathom
MODEL := models/smollm2-135m-instruct.gguf
TEXT := models/debian-faq.txt
MINUTES ?= 10

demo: build $(MODEL) $(TEXT)  ## compress SmolLM2-135M in depth, train it back, show what it lost, and let it answer
	scripts/demo.sh $(FATHOM) $(MODEL) $(TEXT) demo $(MINUTES)

test: build  ## build and run every test
	ctest --test-dir build/release --output-on-failure

test-arm:  ## cross-build for ARM, without training, and run its tests under emulation
	scripts/test_arm.sh

experiment: build $(MODEL) $(TEXT)  ## make experiment NAME=early_exit [ARGS="--minutes 20"]: experiments/NAME/run.py
	experiments/$(NAME)/run.py $(ARGS)

build: deps  ## the program: build/release/fathom
	@cmake --preset release > build/configure.log || { cat build/configure.log; exit 1; }
	cmake --build --preset release

deps:  ## Debian packages and libtorch
	@scripts/setup.sh

$(MODEL):
	@scripts/fetch_model.sh $@

$(TEXT):
	@scripts/fetch_text.sh $@

format:  ## clang-format over the tree
	git ls-files '*.cpp' '*.h' | xargs clang-format -i

lint: build  ## clang-format and clang-tidy find nothing
	git ls-files '*.cpp' '*.h' | xargs clang-format --dry-run --Werror
	git ls-files 'src/*.cpp' | xargs -P $$(nproc) -n 4 clang-tidy --quiet -p build/release

clean:
	rm -rf build
