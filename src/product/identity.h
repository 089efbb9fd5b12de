/** @file identity.h  What an input or a product is, told by its content.  [local]
 *
 * An identity is 16 hex digits. The same content has the same, wherever it lies, whoever made it and when:
 *
 *     weights.h5, or its directory       the content that the seal tells (store/weights.h)
 *     index.json, or its directory       the content that the index tells (store/shards.h, store/logits.h); the files
 *                                        that it lists must be there, with the seals that it lists
 *     manifest.json, or its directory    the manifest, which lists all checksums (store/manifest.h)
 *     a directory with step-*            the newest of these checkpoints
 *     another directory                  of a model: config.json, tokenizer.json, *.safetensors and their index
 *     another sealed file                the content that the seal tells, else the seal
 *     another file                       size and bytes; from 4 MiB on, size and 16 pieces of 256 KiB
 *     a list of files and patterns       its files, in their order
 *
 * So it costs some reads, not the reading of everything: it tells a file that was made anew from the old one, and does
 * not look for damage. A large file that is not Graft's could be changed between the pieces without being noticed.
 */
#ifndef GR_PRODUCT_IDENTITY_H
#define GR_PRODUCT_IDENTITY_H
#include "config/config.h"
#include "util/status.h"

GR_C_BEGIN

typedef struct gr_identity {
    char hex[17]; /**< "" when there is nothing */
} gr_identity;

/** Of a file or directory. GR_ERR_INPUT when it is there and damaged. */
gr_status gr_identify(gr_identity *id, const char *path);

/** Of what a key names. */
gr_status gr_identify_input(gr_identity *id, const gr_input_key *key);

GR_C_END
#endif
