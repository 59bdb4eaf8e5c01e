#include "daemon/snapshot/format/xxh3_body.h"

namespace vmmd::snapshot::xxh3 {

Functions baseline() {
  return kFunctions;
}

}  // namespace vmmd::snapshot::xxh3
