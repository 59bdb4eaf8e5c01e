// vmm-remote: the command line of vmmd. See docs/user-guide.md.

#include "remote/cli.h"

int main(int argc, char** argv) {
  return vmmd::remote::run_program(argc, argv);
}
