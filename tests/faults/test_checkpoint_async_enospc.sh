#!/usr/bin/env bash
# test_checkpoint_enospc.sh, written beside the training.
#TEST np: 1
#TEST timeout: 60
exec bash "$(dirname "$0")/test_checkpoint_enospc.sh" async
