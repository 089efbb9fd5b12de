/** @file import.h  From HuggingFace directories to weights files, from Transformer to hybrid, and back.
 *
 * None of these holds a model: tensors stream from file to file, each rank taking its share. On any failure no output
 * appears.
 */
#ifndef GR_MODEL_IMPORT_H
#define GR_MODEL_IMPORT_H
#include "comm/comm.h"
#include "config/config.h"
#include "model/spec.h"
#include "store/safetensors.h"
#include "store/weights.h"
#include "tensor/params.h"

GR_C_BEGIN

/** [collective] Read config.json, tokenizer.json (may be absent) and the safetensors of `dir`; write weights file
 * `out`. Every tensor the config promises must be there with its shape; a tensor it does not know is an error; NaN or
 * Inf is an error. */
gr_status gr_import(const gr_comm *c, const char *dir, const char *out, const gr_provenance *by);

/** [local] The tensors of a HuggingFace directory are those of a layout, in their shapes; only what holds no weight may
 * be beside them. GR_ERR_INPUT; `dir` leads the messages. */
gr_status gr_import_match(const gr_st *from, const gr_params *ps, const gr_model_spec *spec, const char *dir);

/** [collective] Replace the attention of a Transformer by `convert->pattern`: new mixers initialised from the attention
 * they replace, everything else copied unchanged. */
gr_status gr_convert(const gr_comm *c, const char *weights, const gr_cfg_convert *convert, const gr_cfg_mixer *mixer,
                     const char *out, const gr_provenance *by);

/** [collective] Write an HF model into `dir`, which exists: config.json, tokenizer.json, *.safetensors of at most
 * shard_mib (with an index when there are several). */
gr_status gr_export(const gr_comm *c, const char *weights, const gr_cfg_export *cfg, const char *dir);

GR_C_END
#endif
