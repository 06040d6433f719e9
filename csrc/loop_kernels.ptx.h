// Made from loop_kernels.cu and chain_kernels.cu by generate_ptx.py with
// nvcc 13.0; do not edit.

#pragma once

namespace morse_engine {

constexpr char loop_kernels_ptx[] = R"ptx(.version 7.0
.target sm_75
.address_size 64
.extern .func cudaGraphSetConditional
(
 .param .b64 cudaGraphSetConditional_param_0,
 .param .b32 cudaGraphSetConditional_param_1
)
;
.visible .entry morse_begin(
 .param .align 8 .b8 morse_begin_param_0[40],
 .param .u64 morse_begin_param_1
)
{
 .reg .pred  %p<9>;
 .reg .b16  %rs<10>;
 .reg .b32  %r<20>;
 .reg .b64  %rd<16>;
 ld.param.u64  %rd8, [morse_begin_param_1];
 ld.param.u32  %r4, [morse_begin_param_0+32];
 ld.param.u64  %rd7, [morse_begin_param_0+24];
 ld.param.u64  %rd6, [morse_begin_param_0+16];
 ld.param.u64  %rd5, [morse_begin_param_0+8];
 ld.param.u64  %rd4, [morse_begin_param_0];
 cvta.to.global.u64  %rd9, %rd4;
 cvta.to.global.u64  %rd10, %rd6;
 cvta.to.global.u64  %rd1, %rd7;
 add.s64  %rd2, %rd9, 12;
 ld.global.u32  %r6, [%rd9+12];
 add.s32  %r7, %r6, 1;
 st.global.u32  [%rd9+12], %r7;
 mov.u32  %r19, 0;
 st.global.u32  [%rd9+8], %r19;
 ld.volatile.global.u32  %rd11, [%rd9+12];
 ld.volatile.global.u32  %rd12, [%rd1];
 bfi.b64  %rd13, %rd11, %rd12, 32, 32;
 st.volatile.global.u64  [%rd10], %rd13;
 membar.sys;
 ld.volatile.global.u32  %r8, [%rd10+12];
 ld.volatile.global.u32  %r9, [%rd9+12];
 setp.le.s32  %p1, %r9, %r8;
 @%p1 bra  $L__BB0_6;
 ld.volatile.global.s32  %rd3, [%rd1];
 setp.lt.s64  %p2, %rd3, 0;
 @%p2 bra  $L__BB0_6;
 cvt.u32.u64  %r12, %rd3;
 ld.volatile.global.u32  %r13, [%rd2+-8];
 setp.ge.s32  %p3, %r12, %r13;
 @%p3 bra  $L__BB0_6;
 ld.volatile.global.u32  %r16, [%rd2+-12];
 setp.ge.s32  %p4, %r12, %r16;
 setp.ge.s32  %p5, %r12, %r4;
 or.pred   %p6, %p5, %p4;
 @%p6 bra  $L__BB0_6;
 ld.volatile.global.u32  %r18, [%rd2+-4];
 setp.ge.s32  %p7, %r18, %r4;
 @%p7 bra  $L__BB0_6;
 cvta.to.global.u64  %rd14, %rd5;
 add.s64  %rd15, %rd14, %rd3;
 ld.global.u8  %rs9, [%rd15];
 setp.lt.u16  %p8, %rs9, 2;
 selp.u32  %r19, 1, 0, %p8;
$L__BB0_6:
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd8;
 .param .b32 param1;
 st.param.b32  [param1+0], %r19;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_choose_switch(
 .param .align 8 .b8 morse_choose_switch_param_0[40],
 .param .u64 morse_choose_switch_param_1,
 .param .u64 morse_choose_switch_param_2
)
{
 .reg .pred  %p<16>;
 .reg .b16  %rs<9>;
 .reg .b32  %r<27>;
 .reg .b64  %rd<17>;
 ld.param.u64  %rd9, [morse_choose_switch_param_1];
 ld.param.u64  %rd10, [morse_choose_switch_param_2];
 ld.param.u32  %r5, [morse_choose_switch_param_0+32];
 ld.param.u64  %rd8, [morse_choose_switch_param_0+24];
 ld.param.u64  %rd7, [morse_choose_switch_param_0+16];
 ld.param.u64  %rd6, [morse_choose_switch_param_0+8];
 ld.param.u64  %rd5, [morse_choose_switch_param_0];
 cvta.to.global.u64  %rd11, %rd5;
 cvta.to.global.u64  %rd3, %rd7;
 cvta.to.global.u64  %rd1, %rd8;
 add.s64  %rd2, %rd11, 8;
 ld.global.u32  %r6, [%rd11+8];
 setp.eq.s32  %p3, %r6, 0;
 @%p3 bra  $L__BB1_2;
 ld.volatile.global.u32  %rd12, [%rd2+4];
 ld.volatile.global.u32  %rd13, [%rd1];
 bfi.b64  %rd14, %rd12, %rd13, 32, 32;
 st.volatile.global.u64  [%rd3], %rd14;
 membar.sys;
$L__BB1_2:
 ld.volatile.global.u32  %r8, [%rd3+12];
 ld.volatile.global.u32  %r9, [%rd2+4];
 setp.le.s32  %p4, %r9, %r8;
 mov.u32  %r26, 2;
 @%p4 bra  $L__BB1_8;
 ld.volatile.global.s32  %rd4, [%rd1];
 setp.lt.s64  %p5, %rd4, 0;
 @%p5 bra  $L__BB1_8;
 cvt.u32.u64  %r12, %rd4;
 ld.volatile.global.u32  %r13, [%rd2+-4];
 setp.ge.s32  %p6, %r12, %r13;
 @%p6 bra  $L__BB1_8;
 ld.volatile.global.u32  %r16, [%rd2+-8];
 setp.ge.s32  %p7, %r12, %r16;
 setp.ge.s32  %p8, %r12, %r5;
 or.pred   %p9, %p8, %p7;
 @%p9 bra  $L__BB1_8;
 ld.volatile.global.u32  %r18, [%rd2];
 setp.ge.s32  %p10, %r18, %r5;
 @%p10 bra  $L__BB1_8;
 cvta.to.global.u64  %rd15, %rd6;
 add.s64  %rd16, %rd15, %rd4;
 ld.global.u8  %r19, [%rd16];
 min.u32  %r26, %r19, 2;
$L__BB1_8:
 ld.global.u32  %r20, [%rd2];
 add.s32  %r21, %r20, 1;
 st.global.u32  [%rd2], %r21;
 ld.volatile.global.u32  %r22, [%rd1];
 add.s32  %r4, %r22, 1;
 ld.volatile.global.u32  %r23, [%rd2+-4];
 setp.ge.s32  %p12, %r4, %r23;
 mov.pred  %p15, 0;
 @%p12 bra  $L__BB1_10;
 ld.volatile.global.u32  %r24, [%rd2+-8];
 setp.lt.s32  %p15, %r4, %r24;
$L__BB1_10:
 setp.ne.s32  %p13, %r26, 2;
 and.pred   %p14, %p13, %p15;
 selp.u32  %r25, 1, 0, %p14;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd9;
 .param .b32 param1;
 st.param.b32  [param1+0], %r25;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd10;
 .param .b32 param1;
 st.param.b32  [param1+0], %r26;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_choose_two(
 .param .align 8 .b8 morse_choose_two_param_0[40],
 .param .u64 morse_choose_two_param_1,
 .param .u64 morse_choose_two_param_2,
 .param .u64 morse_choose_two_param_3
)
{
 .reg .pred  %p<18>;
 .reg .b16  %rs<9>;
 .reg .b32  %r<29>;
 .reg .b64  %rd<18>;
 ld.param.u64  %rd9, [morse_choose_two_param_1];
 ld.param.u64  %rd10, [morse_choose_two_param_2];
 ld.param.u64  %rd11, [morse_choose_two_param_3];
 ld.param.u32  %r5, [morse_choose_two_param_0+32];
 ld.param.u64  %rd8, [morse_choose_two_param_0+24];
 ld.param.u64  %rd7, [morse_choose_two_param_0+16];
 ld.param.u64  %rd6, [morse_choose_two_param_0+8];
 ld.param.u64  %rd5, [morse_choose_two_param_0];
 cvta.to.global.u64  %rd12, %rd5;
 cvta.to.global.u64  %rd3, %rd7;
 cvta.to.global.u64  %rd1, %rd8;
 add.s64  %rd2, %rd12, 8;
 ld.global.u32  %r6, [%rd12+8];
 setp.eq.s32  %p3, %r6, 0;
 @%p3 bra  $L__BB2_2;
 ld.volatile.global.u32  %rd13, [%rd2+4];
 ld.volatile.global.u32  %rd14, [%rd1];
 bfi.b64  %rd15, %rd13, %rd14, 32, 32;
 st.volatile.global.u64  [%rd3], %rd15;
 membar.sys;
$L__BB2_2:
 ld.volatile.global.u32  %r8, [%rd3+12];
 ld.volatile.global.u32  %r9, [%rd2+4];
 setp.le.s32  %p4, %r9, %r8;
 mov.u32  %r28, 2;
 @%p4 bra  $L__BB2_8;
 ld.volatile.global.s32  %rd4, [%rd1];
 setp.lt.s64  %p5, %rd4, 0;
 @%p5 bra  $L__BB2_8;
 cvt.u32.u64  %r12, %rd4;
 ld.volatile.global.u32  %r13, [%rd2+-4];
 setp.ge.s32  %p6, %r12, %r13;
 @%p6 bra  $L__BB2_8;
 ld.volatile.global.u32  %r16, [%rd2+-8];
 setp.ge.s32  %p7, %r12, %r16;
 setp.ge.s32  %p8, %r12, %r5;
 or.pred   %p9, %p8, %p7;
 @%p9 bra  $L__BB2_8;
 ld.volatile.global.u32  %r18, [%rd2];
 setp.ge.s32  %p10, %r18, %r5;
 @%p10 bra  $L__BB2_8;
 cvta.to.global.u64  %rd16, %rd6;
 add.s64  %rd17, %rd16, %rd4;
 ld.global.u8  %r19, [%rd17];
 min.u32  %r28, %r19, 2;
$L__BB2_8:
 ld.global.u32  %r20, [%rd2];
 add.s32  %r21, %r20, 1;
 st.global.u32  [%rd2], %r21;
 ld.volatile.global.u32  %r22, [%rd1];
 add.s32  %r4, %r22, 1;
 ld.volatile.global.u32  %r23, [%rd2+-4];
 setp.ge.s32  %p12, %r4, %r23;
 mov.pred  %p17, 0;
 @%p12 bra  $L__BB2_10;
 ld.volatile.global.u32  %r24, [%rd2+-8];
 setp.lt.s32  %p17, %r4, %r24;
$L__BB2_10:
 setp.ne.s32  %p13, %r28, 2;
 and.pred   %p14, %p13, %p17;
 selp.u32  %r25, 1, 0, %p14;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd9;
 .param .b32 param1;
 st.param.b32  [param1+0], %r25;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 setp.eq.s32  %p15, %r28, 0;
 selp.u32  %r26, 1, 0, %p15;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd10;
 .param .b32 param1;
 st.param.b32  [param1+0], %r26;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 setp.eq.s32  %p16, %r28, 1;
 selp.u32  %r27, 1, 0, %p16;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd11;
 .param .b32 param1;
 st.param.b32  [param1+0], %r27;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_pick_two(
 .param .align 8 .b8 morse_pick_two_param_0[40],
 .param .u64 morse_pick_two_param_1,
 .param .u64 morse_pick_two_param_2
)
{
 .reg .pred  %p<10>;
 .reg .b16  %rs<9>;
 .reg .b32  %r<21>;
 .reg .b64  %rd<14>;
 ld.param.u64  %rd7, [morse_pick_two_param_1];
 ld.param.u64  %rd8, [morse_pick_two_param_2];
 ld.param.u32  %r4, [morse_pick_two_param_0+32];
 ld.param.u64  %rd6, [morse_pick_two_param_0+24];
 ld.param.u64  %rd5, [morse_pick_two_param_0+16];
 ld.param.u64  %rd4, [morse_pick_two_param_0+8];
 ld.param.u64  %rd3, [morse_pick_two_param_0];
 cvta.to.global.u64  %rd9, %rd3;
 cvta.to.global.u64  %rd10, %rd5;
 add.s64  %rd1, %rd9, 12;
 ld.volatile.global.u32  %r6, [%rd10+12];
 ld.volatile.global.u32  %r7, [%rd9+12];
 setp.le.s32  %p1, %r7, %r6;
 mov.u32  %r20, 2;
 @%p1 bra  $L__BB3_6;
 cvta.to.global.u64  %rd11, %rd6;
 ld.volatile.global.s32  %rd2, [%rd11];
 setp.lt.s64  %p2, %rd2, 0;
 @%p2 bra  $L__BB3_6;
 cvt.u32.u64  %r10, %rd2;
 ld.volatile.global.u32  %r11, [%rd1+-8];
 setp.ge.s32  %p3, %r10, %r11;
 @%p3 bra  $L__BB3_6;
 ld.volatile.global.u32  %r14, [%rd1+-12];
 setp.ge.s32  %p4, %r10, %r14;
 setp.ge.s32  %p5, %r10, %r4;
 or.pred   %p6, %p5, %p4;
 @%p6 bra  $L__BB3_6;
 ld.volatile.global.u32  %r16, [%rd1+-4];
 setp.ge.s32  %p7, %r16, %r4;
 @%p7 bra  $L__BB3_6;
 cvta.to.global.u64  %rd12, %rd4;
 add.s64  %rd13, %rd12, %rd2;
 ld.global.u8  %r17, [%rd13];
 min.u32  %r20, %r17, 2;
$L__BB3_6:
 setp.eq.s32  %p8, %r20, 0;
 selp.u32  %r18, 1, 0, %p8;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd7;
 .param .b32 param1;
 st.param.b32  [param1+0], %r18;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 setp.eq.s32  %p9, %r20, 1;
 selp.u32  %r19, 1, 0, %p9;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd8;
 .param .b32 param1;
 st.param.b32  [param1+0], %r19;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_count_pick_two(
 .param .align 8 .b8 morse_count_pick_two_param_0[40],
 .param .u64 morse_count_pick_two_param_1,
 .param .u64 morse_count_pick_two_param_2
)
{
 .reg .pred  %p<10>;
 .reg .b16  %rs<9>;
 .reg .b32  %r<23>;
 .reg .b64  %rd<17>;
 ld.param.u64  %rd8, [morse_count_pick_two_param_1];
 ld.param.u64  %rd9, [morse_count_pick_two_param_2];
 ld.param.u32  %r4, [morse_count_pick_two_param_0+32];
 ld.param.u64  %rd7, [morse_count_pick_two_param_0+24];
 ld.param.u64  %rd6, [morse_count_pick_two_param_0+16];
 ld.param.u64  %rd5, [morse_count_pick_two_param_0+8];
 ld.param.u64  %rd4, [morse_count_pick_two_param_0];
 cvta.to.global.u64  %rd10, %rd4;
 cvta.to.global.u64  %rd11, %rd6;
 cvta.to.global.u64  %rd1, %rd7;
 add.s64  %rd2, %rd10, 8;
 ld.global.u32  %r6, [%rd10+8];
 add.s32  %r7, %r6, 1;
 st.global.u32  [%rd10+8], %r7;
 ld.volatile.global.u32  %rd12, [%rd10+12];
 ld.volatile.global.u32  %rd13, [%rd1];
 bfi.b64  %rd14, %rd12, %rd13, 32, 32;
 st.volatile.global.u64  [%rd11], %rd14;
 membar.sys;
 ld.volatile.global.u32  %r8, [%rd11+12];
 ld.volatile.global.u32  %r9, [%rd10+12];
 setp.le.s32  %p1, %r9, %r8;
 mov.u32  %r22, 2;
 @%p1 bra  $L__BB4_6;
 ld.volatile.global.s32  %rd3, [%rd1];
 setp.lt.s64  %p2, %rd3, 0;
 @%p2 bra  $L__BB4_6;
 cvt.u32.u64  %r12, %rd3;
 ld.volatile.global.u32  %r13, [%rd2+-4];
 setp.ge.s32  %p3, %r12, %r13;
 @%p3 bra  $L__BB4_6;
 ld.volatile.global.u32  %r16, [%rd2+-8];
 setp.ge.s32  %p4, %r12, %r16;
 setp.ge.s32  %p5, %r12, %r4;
 or.pred   %p6, %p5, %p4;
 @%p6 bra  $L__BB4_6;
 ld.volatile.global.u32  %r18, [%rd2];
 setp.ge.s32  %p7, %r18, %r4;
 @%p7 bra  $L__BB4_6;
 cvta.to.global.u64  %rd15, %rd5;
 add.s64  %rd16, %rd15, %rd3;
 ld.global.u8  %r19, [%rd16];
 min.u32  %r22, %r19, 2;
$L__BB4_6:
 setp.eq.s32  %p8, %r22, 0;
 selp.u32  %r20, 1, 0, %p8;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd8;
 .param .b32 param1;
 st.param.b32  [param1+0], %r20;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 setp.eq.s32  %p9, %r22, 1;
 selp.u32  %r21, 1, 0, %p9;
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd9;
 .param .b32 param1;
 st.param.b32  [param1+0], %r21;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_next(
 .param .align 8 .b8 morse_next_param_0[40],
 .param .u64 morse_next_param_1
)
{
 .reg .pred  %p<9>;
 .reg .b16  %rs<10>;
 .reg .b32  %r<18>;
 .reg .b64  %rd<13>;
 ld.param.u64  %rd7, [morse_next_param_1];
 ld.param.u32  %r4, [morse_next_param_0+32];
 ld.param.u64  %rd6, [morse_next_param_0+24];
 ld.param.u64  %rd5, [morse_next_param_0+16];
 ld.param.u64  %rd4, [morse_next_param_0+8];
 ld.param.u64  %rd3, [morse_next_param_0];
 cvta.to.global.u64  %rd8, %rd3;
 cvta.to.global.u64  %rd9, %rd5;
 add.s64  %rd1, %rd8, 12;
 ld.volatile.global.u32  %r6, [%rd9+12];
 ld.volatile.global.u32  %r7, [%rd8+12];
 setp.le.s32  %p1, %r7, %r6;
 mov.u32  %r17, 0;
 @%p1 bra  $L__BB5_6;
 cvta.to.global.u64  %rd10, %rd6;
 ld.volatile.global.s32  %rd2, [%rd10];
 setp.lt.s64  %p2, %rd2, 0;
 @%p2 bra  $L__BB5_6;
 cvt.u32.u64  %r10, %rd2;
 ld.volatile.global.u32  %r11, [%rd1+-8];
 setp.ge.s32  %p3, %r10, %r11;
 @%p3 bra  $L__BB5_6;
 ld.volatile.global.u32  %r14, [%rd1+-12];
 setp.ge.s32  %p4, %r10, %r14;
 setp.ge.s32  %p5, %r10, %r4;
 or.pred   %p6, %p5, %p4;
 @%p6 bra  $L__BB5_6;
 ld.volatile.global.u32  %r16, [%rd1+-4];
 setp.ge.s32  %p7, %r16, %r4;
 @%p7 bra  $L__BB5_6;
 cvta.to.global.u64  %rd11, %rd4;
 add.s64  %rd12, %rd11, %rd2;
 ld.global.u8  %rs9, [%rd12];
 setp.lt.u16  %p8, %rs9, 2;
 selp.u32  %r17, 1, 0, %p8;
$L__BB5_6:
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd7;
 .param .b32 param1;
 st.param.b32  [param1+0], %r17;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_count_next(
 .param .align 8 .b8 morse_count_next_param_0[40],
 .param .u64 morse_count_next_param_1
)
{
 .reg .pred  %p<9>;
 .reg .b16  %rs<10>;
 .reg .b32  %r<20>;
 .reg .b64  %rd<16>;
 ld.param.u64  %rd8, [morse_count_next_param_1];
 ld.param.u32  %r4, [morse_count_next_param_0+32];
 ld.param.u64  %rd7, [morse_count_next_param_0+24];
 ld.param.u64  %rd6, [morse_count_next_param_0+16];
 ld.param.u64  %rd5, [morse_count_next_param_0+8];
 ld.param.u64  %rd4, [morse_count_next_param_0];
 cvta.to.global.u64  %rd9, %rd4;
 cvta.to.global.u64  %rd10, %rd6;
 cvta.to.global.u64  %rd1, %rd7;
 add.s64  %rd2, %rd9, 8;
 ld.global.u32  %r6, [%rd9+8];
 add.s32  %r7, %r6, 1;
 st.global.u32  [%rd9+8], %r7;
 ld.volatile.global.u32  %rd11, [%rd9+12];
 ld.volatile.global.u32  %rd12, [%rd1];
 bfi.b64  %rd13, %rd11, %rd12, 32, 32;
 st.volatile.global.u64  [%rd10], %rd13;
 membar.sys;
 ld.volatile.global.u32  %r8, [%rd10+12];
 ld.volatile.global.u32  %r9, [%rd9+12];
 setp.le.s32  %p1, %r9, %r8;
 mov.u32  %r19, 0;
 @%p1 bra  $L__BB6_6;
 ld.volatile.global.s32  %rd3, [%rd1];
 setp.lt.s64  %p2, %rd3, 0;
 @%p2 bra  $L__BB6_6;
 cvt.u32.u64  %r12, %rd3;
 ld.volatile.global.u32  %r13, [%rd2+-4];
 setp.ge.s32  %p3, %r12, %r13;
 @%p3 bra  $L__BB6_6;
 ld.volatile.global.u32  %r16, [%rd2+-8];
 setp.ge.s32  %p4, %r12, %r16;
 setp.ge.s32  %p5, %r12, %r4;
 or.pred   %p6, %p5, %p4;
 @%p6 bra  $L__BB6_6;
 ld.volatile.global.u32  %r18, [%rd2];
 setp.ge.s32  %p7, %r18, %r4;
 @%p7 bra  $L__BB6_6;
 cvta.to.global.u64  %rd14, %rd5;
 add.s64  %rd15, %rd14, %rd3;
 ld.global.u8  %rs9, [%rd15];
 setp.lt.u16  %p8, %rs9, 2;
 selp.u32  %r19, 1, 0, %p8;
$L__BB6_6:
 {
 .reg .b32 temp_param_reg;
 .param .b64 param0;
 st.param.b64  [param0+0], %rd8;
 .param .b32 param1;
 st.param.b32  [param1+0], %r19;
 call.uni
 cudaGraphSetConditional,
 (
 param0,
 param1
 );
 }
 ret;
}
.visible .entry morse_end(
 .param .align 8 .b8 morse_end_param_0[40]
)
{
 .reg .b32  %r<2>;
 .reg .b64  %rd<10>;
 ld.param.u64  %rd1, [morse_end_param_0+24];
 ld.param.u64  %rd2, [morse_end_param_0+16];
 ld.param.u64  %rd3, [morse_end_param_0];
 cvta.to.global.u64  %rd4, %rd3;
 cvta.to.global.u64  %rd5, %rd2;
 cvta.to.global.u64  %rd6, %rd1;
 ld.volatile.global.u32  %rd7, [%rd4+12];
 ld.volatile.global.u32  %rd8, [%rd6];
 bfi.b64  %rd9, %rd7, %rd8, 32, 32;
 st.volatile.global.u64  [%rd5], %rd9;
 membar.sys;
 ld.volatile.global.u32  %r1, [%rd4+12];
 st.volatile.global.u32  [%rd5+8], %r1;
 membar.sys;
 ret;
}
)ptx";

constexpr char chain_kernels_ptx[] = R"ptx(.version 7.0
.target sm_75
.address_size 64
.visible .entry morse_chain_start(
 .param .align 8 .b8 morse_chain_start_param_0[40]
)
{
 .reg .b32  %r<4>;
 .reg .b64  %rd<10>;
 ld.param.u64  %rd1, [morse_chain_start_param_0+24];
 ld.param.u64  %rd2, [morse_chain_start_param_0+16];
 ld.param.u64  %rd3, [morse_chain_start_param_0];
 cvta.to.global.u64  %rd4, %rd3;
 cvta.to.global.u64  %rd5, %rd2;
 cvta.to.global.u64  %rd6, %rd1;
 ld.global.u32  %r1, [%rd4+12];
 add.s32  %r2, %r1, 1;
 st.global.u32  [%rd4+12], %r2;
 mov.u32  %r3, 0;
 st.global.u32  [%rd4+8], %r3;
 ld.volatile.global.u32  %rd7, [%rd4+12];
 ld.volatile.global.u32  %rd8, [%rd6];
 bfi.b64  %rd9, %rd7, %rd8, 32, 32;
 st.volatile.global.u64  [%rd5], %rd9;
 membar.sys;
 ret;
}
.visible .entry morse_chain_count(
 .param .align 8 .b8 morse_chain_count_param_0[40]
)
{
 .reg .b32  %r<3>;
 .reg .b64  %rd<10>;
 ld.param.u64  %rd1, [morse_chain_count_param_0+24];
 ld.param.u64  %rd2, [morse_chain_count_param_0+16];
 ld.param.u64  %rd3, [morse_chain_count_param_0];
 cvta.to.global.u64  %rd4, %rd3;
 cvta.to.global.u64  %rd5, %rd2;
 cvta.to.global.u64  %rd6, %rd1;
 ld.global.u32  %r1, [%rd4+8];
 add.s32  %r2, %r1, 1;
 st.global.u32  [%rd4+8], %r2;
 ld.volatile.global.u32  %rd7, [%rd4+12];
 ld.volatile.global.u32  %rd8, [%rd6];
 bfi.b64  %rd9, %rd7, %rd8, 32, 32;
 st.volatile.global.u64  [%rd5], %rd9;
 membar.sys;
 ret;
}
.visible .entry morse_chain_end(
 .param .align 8 .b8 morse_chain_end_param_0[40]
)
{
 .reg .b32  %r<2>;
 .reg .b64  %rd<10>;
 ld.param.u64  %rd1, [morse_chain_end_param_0+24];
 ld.param.u64  %rd2, [morse_chain_end_param_0+16];
 ld.param.u64  %rd3, [morse_chain_end_param_0];
 cvta.to.global.u64  %rd4, %rd3;
 cvta.to.global.u64  %rd5, %rd2;
 cvta.to.global.u64  %rd6, %rd1;
 ld.volatile.global.u32  %rd7, [%rd4+12];
 ld.volatile.global.u32  %rd8, [%rd6];
 bfi.b64  %rd9, %rd7, %rd8, 32, 32;
 st.volatile.global.u64  [%rd5], %rd9;
 membar.sys;
 ld.volatile.global.u32  %r1, [%rd4+12];
 st.volatile.global.u32  [%rd5+8], %r1;
 membar.sys;
 ret;
}
)ptx";

}  // namespace morse_engine
