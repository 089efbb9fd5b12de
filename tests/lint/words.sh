#!/usr/bin/env bash
# The words of words.txt appear only where it allows them.
#TEST np: 1
#TEST timeout: 60
cd "$(dirname "$0")/../.." || exit 1
{ git ls-files -z --cached --others --exclude-standard 2>/dev/null ||
    find . -path ./.git -prune -o -path './build*' -prune -o -path ./runs -prune -o -type f -printf '%P\0'; } |
LC_ALL=C perl -0ne '
use strict;
our ($bad, @rules);
BEGIN {
    local $/ = "\n";
    open my $in, "<", "tests/lint/words.txt" or die "tests/lint/words.txt: $!";
    while (<$in>) {
        next if /^#/ || !/\S/;
        my ($scope, $re, @homes) = split;
        die "tests/lint/words.txt:$.: scope, pattern, paths\n" unless $scope =~ /^(code|line|text)$/ && @homes;
        push @rules, [$scope, qr/$re/, join("|", map { quotemeta } grep { $_ ne "-" } @homes)];
    }
}
END { $? = 1 if $bad }

# Blank comments and the inside of literals, but keep lines, and what #include names.
sub code_only {
    my $s = shift;
    $s =~ s{(/\*.*?\*/|//[^\n]*)|(?<inc>^\s*\#\s*include[^\n]*)|("(?:\\.|[^"\\\n])*"|\x27(?:\\.|[^\x27\\\n])*\x27)}
           { my ($c, $i, $q) = ($1, $2, $3);
             defined $i ? $i : do { my $x = defined $c ? $c : $q; $x =~ s/[^\n]/ /g; $x } }gesm;
    return $s;
}

chomp;
my $file = $_;
next if -l $file || !-f _ || -s _ > 4e6;
my $text = do { local $/; open my $in, "<", $file or next; <$in> };
next if !defined $text || $text =~ /\0/;
my $is_code = $file =~ /\.(?:c|h|def|cu|cuh)$/;
my $is_line = $is_code || $file =~ /\.sh$|^Makefile$/;
my $is_room = $is_code && $file =~ m{^(?:src|kernels|data_pipeline|jobs)/};
my %lines = (text => [split /\n/, $text]);
$lines{line} = $lines{text} if $is_line;
$lines{code} = [split /\n/, code_only($text)] if $is_room;
for my $rule (@rules) {
    my ($scope, $re, $homes) = @$rule;
    next if !$lines{$scope} || ($homes ne "" && $file =~ /^(?:$homes)/);
    my $n = 0;
    for my $line (@{$lines{$scope}}) {
        $n++;
        next unless $line =~ $re;
        my $hit = length $& > 60 ? "line of " . length($line) . " bytes" : $&;
        print "$file:$n: $hit: " . ($homes ? "only below " . join(", ", map { s/\\//gr } split /\|/, $homes) : "nowhere") . "\n";
        $bad = 1;
    }
}'
